"""`sample`, `decode`, `encode` and `reconstruct` with conditions, codes, open sizes, several latents and tables."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Outcome
from vae_export import Model, load
from vae_export.pixels import to_levels

pytestmark = pytest.mark.slow


@pytest.fixture
def bundle(extended: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """`bundle(name)`: a bundle in a folder of this test, because commands write beside it."""

    def get(name: str) -> Path:
        path = tmp_path / "bundles" / f"{name}.zip"
        path.parent.mkdir(exist_ok=True)
        return path if path.exists() else Path(shutil.copy(extended(name) / "bundle.zip", path))

    return get


@pytest.fixture
def batch(invoke: Callable[..., Outcome], bundle: Callable[[str], Path]) -> Callable[..., Outcome]:
    """`batch("codes", "sample", …)`: a command with the bundle of this contract."""
    return lambda name, command, *arguments: invoke(command, *arguments, "--bundle", bundle(name), "--threads", 1)


def opened(bundle: Callable[[str], Path], name: str) -> Model:
    return load(bundle(name), threads=1)


def test_condition_of_all_rows_and_condition_of_each(
    batch: Callable[..., Outcome], bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    model, out, style = opened(bundle, "conditional"), tmp_path / "out.npy", np.array([0.5, -1, 0], np.float32)
    done = batch(
        "conditional", "sample", "-n", 5, "--condition", "label=3", "--condition", "style=0.5,-1,0", "--out", out
    )
    assert done.code == 0, done.err
    assert np.array_equal(np.load(out), model.sample(5, label=3, style=style))
    labels = np.array([0, 9, 4, 4, 1])
    np.save(tmp_path / "labels.npy", labels.astype(np.int32))  # other integers are converted
    given = ["--condition", f"label={tmp_path / 'labels.npy'}", "--condition", "style=0.5,-1,0"]
    done = batch("conditional", "reconstruct", out, *given, "--out", tmp_path / "rec.npy")
    assert done.code == 0, done.err
    assert np.array_equal(np.load(tmp_path / "rec.npy"), model.reconstruct(np.load(out), label=labels, style=style))
    done = batch("conditional", "encode", out, *given[:2], "--out", tmp_path / "latents.npz")
    assert done.code == 0, done.err
    assert np.array_equal(np.load(tmp_path / "latents.npz")["mean"], model.encode(np.load(out), label=labels)[0])


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ([], 2, "condition is missing: label (N) int64 in [0, 9]; pass --condition label=VALUE, or"),
        (["label=3"], 2, "condition is missing: style (N, 3) in [-1, 1]"),
        (["label=10", "style=0,0,0"], 2, "condition out of range: --condition label=10; expected 0 to 9"),
        (["label=x", "style=0,0,0"], 2, "bad condition: --condition label=x; expected label (N) int64 in [0, 9]"),
        (["label=3", "style=0,0"], 2, "bad condition: --condition style=0,0; expected style (N, 3)"),
        (["label=3", "style=0,0,nan"], 3, "not finite: tensor 'style'"),
        (["label=3", "style=0,0,0", "colour=1"], 2, "unknown condition; expected label | style, got colour"),
        (["label"], 2, "bad option: --condition; expected NAME=VALUE, such as label=3, got label"),
        (["label=no.npy", "style=0,0,0"], 3, "cannot be read: "),
    ],
)
def test_bad_condition_is_one_line(
    batch: Callable[..., Outcome], tmp_path: Path, given: list[str], code: int, said: str
) -> None:
    options = [part for text in given for part in ("--condition", text)]
    done = batch("conditional", "sample", "-n", 2, *options, "--out", tmp_path / "out.npy")
    assert (done.code, len(done.err.splitlines())) == (code, 1), done.err
    assert said in done.err
    assert not list(tmp_path.glob("out*"))


def test_conditions_of_another_number_of_rows_are_refused(batch: Callable[..., Outcome], tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.zeros(3, np.int64))
    given = ["--condition", f"label={tmp_path / 'labels.npy'}", "--condition", "style=0,0,0"]
    np.save(tmp_path / "latents.npy", np.zeros((2, 4), np.float32))
    done = batch("conditional", "decode", tmp_path / "latents.npy", *given, "--out", tmp_path / "out.npy")
    assert done.code == 3
    assert "'label' has another number of rows: " in done.err
    assert "expected 2 rows" in done.err


def test_codes_of_a_size_pass_through_every_command(
    batch: Callable[..., Outcome], bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    model, sizes = opened(bundle, "codes"), {"h": 3, "w": 6}
    images, codes = tmp_path / "images.npy", tmp_path / "codes.npz"
    assert batch("codes", "sample", "-n", 5, "--size", "h=3", "--size", "w=6", "--out", images).code == 0
    assert np.array_equal(np.load(images), model.sample(5, sizes=sizes))
    assert batch("codes", "encode", images, "--out", codes).code == 0
    found = np.load(codes)["codes"]
    assert (found.dtype, found.shape) == (np.int64, (5, 3, 6))
    assert np.array_equal(found, model.encode(np.load(images)))
    assert batch("codes", "decode", codes, "--out", tmp_path / "again.npy").code == 0
    assert np.array_equal(np.load(tmp_path / "again.npy"), model.decode(found))
    np.savez(tmp_path / "large.npz", codes=np.full((1, 3, 3), 32))
    done = batch("codes", "decode", tmp_path / "large.npz", "--out", tmp_path / "no.npy")
    assert (done.code, "expected integers in [0, 31], got 32" in done.err) == (3, True)
    np.save(tmp_path / "floats.npy", np.zeros((1, 3, 3), np.float32))
    done = batch("codes", "decode", tmp_path / "floats.npy", "--out", tmp_path / "no.npy")
    assert (done.code, "expected integers, got float32" in done.err) == (3, True)


@pytest.mark.parametrize("size", ["h=65", "height=3", "h=x", "h"])
def test_bad_size_is_one_line(batch: Callable[..., Outcome], tmp_path: Path, size: str) -> None:
    done = batch("maps", "sample", "-n", 1, "--size", size, "--out", tmp_path / "out.npy")
    assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(("name", "mode"), [("two channels", "LA"), ("maps", "RGB"), ("four channels", "RGBA")])
def test_pictures_have_all_channels(
    batch: Callable[..., Outcome], bundle: Callable[[str], Path], tmp_path: Path, name: str, mode: str
) -> None:
    """Written, read and written again: the opacity of grey and colour pictures is a channel like the others."""
    model, folder = opened(bundle, name), tmp_path / "pictures"
    assert batch(name, "sample", "-n", 3, "--size", "h=4", "--out", folder).code == 0
    with Image.open(folder / "000002.png") as image:
        assert image.mode == mode
        pixels = np.asarray(image)
    levels = to_levels(model.sample(3, sizes={"h": 4}), -1, 1)
    assert np.array_equal(np.atleast_3d(pixels), levels[2].transpose(1, 2, 0))
    done = batch(name, "encode", folder, "--out", tmp_path / "latents.npz")
    assert done.code == 0, done.err
    mean = model.encode((levels / np.float64(127.5) - 1).astype(np.float32))[0]
    np.testing.assert_allclose(np.load(tmp_path / "latents.npz")["mean"], mean, atol=1e-5)


def test_picture_of_a_size_that_does_not_fit_is_refused_or_cropped(
    batch: Callable[..., Outcome], tmp_path: Path
) -> None:
    Image.new("RGB", (13, 10)).save(tmp_path / "odd.png")
    done = batch("maps", "reconstruct", tmp_path / "odd.png", "--out", tmp_path / "out.npy")
    assert (done.code, "expected 4*w x 4*h, got 13 x 10; pass --fit" in done.err) == (3, True), done.err
    done = batch("maps", "reconstruct", tmp_path / "odd.png", "--fit", "--out", tmp_path / "out.npy")
    assert done.code == 0, done.err
    assert np.load(tmp_path / "out.npy").shape == (1, 3, 8, 12)


def test_table_is_written_as_an_array(
    batch: Callable[..., Outcome], bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    model, data = opened(bundle, "table"), np.random.default_rng(0).normal(size=(7, 13)).astype(np.float32)
    np.save(tmp_path / "data.npy", data)
    done = batch("table", "reconstruct", tmp_path / "data.npy")
    assert done.code == 0, done.err
    assert "data (N, 13) is no image of 1 to 4 channels: the output is the array reconstructions.npy" in done.err
    out = bundle("table").parent / "reconstructions.npy"
    assert np.array_equal(np.load(out), model.reconstruct(data))
    out.unlink()
    done = batch("table", "reconstruct", tmp_path / "data.npy", "--out", tmp_path / "out.png")
    assert (done.code, "data cannot be written as pictures: " in done.err) == (2, True)
    done = batch("table", "sample", "-n", 2, "--out", tmp_path / "out.npy")
    assert (done.code, "prior is not known; " in done.err) == (3, True)


def test_several_latents_are_arrays_of_one_file(
    batch: Callable[..., Outcome], bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    model, data = opened(bundle, "several"), np.random.default_rng(0).normal(size=(7, 13)).astype(np.float32)
    np.save(tmp_path / "data.npy", data)
    assert batch("several", "encode", tmp_path / "data.npy", "--out", tmp_path / "latents.npz").code == 0
    stored = dict(np.load(tmp_path / "latents.npz"))
    assert list(stored) == ["z1_mean", "z1_logvar", "z2_mean", "z2_logvar"]
    assert batch("several", "decode", tmp_path / "latents.npz", "--out", tmp_path / "out.npy").code == 0
    assert np.array_equal(np.load(tmp_path / "out.npy"), model.reconstruct(data))
    np.savez(tmp_path / "one.npz", z1=stored["z1_mean"])
    done = batch("several", "decode", tmp_path / "one.npz", "--out", tmp_path / "no.npy")
    assert (done.code, "no such array" in done.err) == (3, True), done.err
    done = batch("several", "decode", tmp_path / "data.npy", "--out", tmp_path / "no.npy")
    assert (done.code, "several latents are needed: " in done.err) == (2, True), done.err
    assert batch("several", "sample", "-n", 4, "--out", tmp_path / "drawn.npy").code == 0
    assert np.array_equal(np.load(tmp_path / "drawn.npy"), model.sample(4))


@pytest.mark.parametrize("shards", ["npy", "parquet"])
def test_shards_of_any_rank_are_read_again(batch: Callable[..., Outcome], tmp_path: Path, shards: str) -> None:
    assert (
        batch("codes", "sample", "-n", 7, "--shards", shards, "--shard-rows", 3, "--out", tmp_path / "images").code == 0
    )
    done = batch("codes", "encode", tmp_path / "images", "--shards", shards, "--out", tmp_path / "codes")
    assert done.code == 0, done.err
    assert batch("codes", "decode", tmp_path / "codes", "--out", tmp_path / "out.npy").code == 0
    assert np.load(tmp_path / "out.npy").shape == (7, 3, 16, 16)
