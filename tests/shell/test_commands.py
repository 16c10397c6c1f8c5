"""`sample`, `decode`, `encode` and `reconstruct` as a user types them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from tests.commands import ROOT, command, tree
from tests.conftest import Outcome
from vae_export import load
from vae_export.grey import levels

Invoke = Callable[..., Outcome]


@pytest.fixture
def bundle(packed: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "small.zip"
    path.write_bytes(packed)
    return path


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    path = tmp_path / "latents.npy"
    np.save(path, np.random.default_rng(0).standard_normal((53, 4)).astype(np.float32))
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_sample_draws_what_the_library_draws(invoke: Invoke, bundle: Path, tmp_path: Path) -> None:
    said = invoke("sample", "-n", 9, "--seed", 7, "--bundle", bundle, "--out", tmp_path / "a.npy")
    assert (said.code, said.err) == (0, "")
    exact = load(bundle).sample(9, 7)
    assert np.array_equal(np.load(tmp_path / "a.npy"), exact)
    assert invoke("sample", "-n", 9, "--seed", 7, "--bundle", bundle, "--out", tmp_path / "a").code == 0
    names = [f"{index:06}.png" for index in range(9)]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    for index, name in enumerate(names):
        assert np.array_equal(pixels(tmp_path / "a" / name), levels(exact[index, 0], 0, 1))


def test_a_grid_has_every_image_in_its_place(invoke: Invoke, bundle: Path) -> None:
    assert invoke("sample", "-n", 7, "--bundle", bundle).code == 0
    picture = pixels(bundle.with_name("samples.png"))  # the default place: beside the bundle
    assert picture.shape == (3 * 30 - 2, 3 * 30 - 2)
    for index, image in enumerate(load(bundle).sample(7, 0)):
        top, left = 30 * (index // 3), 30 * (index % 3)
        assert np.array_equal(picture[top : top + 28, left : left + 28], levels(image[0], 0, 1))
    assert (picture[60:, 30:] == 255).all()


def test_a_reconstruction_stands_beside_its_image(invoke: Invoke, bundle: Path, tmp_path: Path) -> None:
    assert invoke("sample", "-n", 3, "--bundle", bundle, "--out", tmp_path / "images").code == 0
    assert invoke("reconstruct", tmp_path / "images", "--bundle", bundle).code == 0
    picture = pixels(tmp_path / "reconstructions.png")
    images = np.stack([pixels(path) for path in sorted((tmp_path / "images").iterdir())])
    again = load(bundle).reconstruct((images[:, None] / 255).astype(np.float32))
    assert picture.shape == (58, 118)
    assert np.array_equal(picture[:28, 60:88], images[1])
    assert np.array_equal(picture[:28, 90:118], levels(again[1, 0], 0, 1))
    assert np.array_equal(picture[30:58, :28], images[2])


def test_what_is_encoded_can_be_decoded_by_any_way(invoke: Invoke, bundle: Path, tmp_path: Path) -> None:
    model = load(bundle)
    images = model.sample(50, 1)
    np.save(tmp_path / "images.npy", images)
    mean, logvar = model.encode(images)
    common = ("--bundle", bundle, "--shard-rows", 16)
    for name, options in (("a.npz", ()), ("b", ("--shards", "npy", *common[2:])), ("c", ("--shards", "parquet"))):
        said = invoke("encode", tmp_path / "images.npy", *common[:2], *options, "--out", tmp_path / name)
        assert said.code == 0, said.err
        said = invoke("decode", tmp_path / name, *common[:2], "--out", tmp_path / f"{name}.npy")
        assert said.code == 0, said.err
    with np.load(tmp_path / "a.npz") as arrays:
        assert np.array_equal(arrays["mean"], mean)
        assert np.array_equal(arrays["logvar"], logvar)
    assert len(list((tmp_path / "b").iterdir())) == 8
    table = parquet.read_table(tmp_path / "c")
    assert np.array_equal(table["logvar"].combine_chunks().to_numpy_ndarray(), logvar)
    first = (tmp_path / "a.npz.npy").read_bytes()
    assert np.array_equal(np.load(tmp_path / "a.npz.npy"), model.decode(mean))
    assert (tmp_path / "b.npy").read_bytes() == first
    assert (tmp_path / "c.npy").read_bytes() == first


def test_equal_inputs_give_equal_bytes(invoke: Invoke, bundle: Path, latents: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert invoke("decode", latents, "--bundle", bundle, "--shards", "parquet", "--out", tmp_path / name).code == 0
        np.save(tmp_path / "images.npy", np.zeros((3, 28, 28), np.uint8))
        out = tmp_path / f"{name}.npz"
        assert invoke("encode", tmp_path / "images.npy", "--bundle", bundle, "--out", out).code == 0
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_pieces_make_the_whole(invoke: Invoke, bundle: Path, latents: Path, tmp_path: Path) -> None:
    options = ("--shards", "npy", "--shard-rows", 10, "--levels", "--batch-size", 4, "--threads", 1)
    assert invoke("decode", latents, "--bundle", bundle, *options, "--out", tmp_path / "shards").code == 0
    files = sorted((tmp_path / "shards").iterdir())
    assert [path.name for path in files] == [f"image-{index:05}.npy" for index in range(6)]
    shards = [np.load(path) for path in files]
    assert [len(shard) for shard in shards] == [10, 10, 10, 10, 10, 3]
    assert shards[0].dtype == np.uint8
    exact = load(bundle, batch_size=4, threads=1).decode(np.load(latents))
    assert np.abs(np.concatenate(shards).astype(int) - levels(exact, 0, 1)).max() <= 1


def test_a_run_is_taken_as_well_as_a_bundle(invoke: Invoke, run_folder: Path, latents: Path) -> None:
    said = invoke("decode", latents, "--run", run_folder, "--json")
    assert said.code == 0, said.err
    result = json.loads(said.out)
    assert (result["rows"], result["engine"], result["out"]) == (53, "local", str(run_folder / "decoded"))
    assert len(list((run_folder / "decoded").iterdir())) == 53


def test_colour_and_latents_that_are_maps(invoke: Invoke, foreign: object, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "export").symlink_to(foreign.folder)  # type: ignore[attr-defined]
    assert invoke("sample", "-n", 5, "--run", run, "--out", tmp_path / "images").code == 0
    assert pixels(tmp_path / "images" / "000004.png").shape == (32, 32, 3)
    assert invoke("encode", tmp_path / "images", "--run", run, "--shards", "parquet").code == 0
    assert invoke("decode", run / "latents", "--run", run, "--out", tmp_path / "again.npy").code == 0
    again = np.load(tmp_path / "again.npy")
    assert again.shape == (5, 3, 32, 32)
    assert again.min() < 0


#: What is typed, with the exit code and what the last line must say. The places are those of the test below.
BAD = [
    ("sample -n 0", 2, "-n"),
    ("sample --seed -1", 2, "bad seed"),
    ("sample --seed 18446744073709551616", 2, "bad seed"),
    ("sample --threads 0", 2, "--threads"),
    ("sample --batch-size -3", 2, "--batch-size"),
    ("sample --engine spark", 2, "unknown engine; expected local | ray, got spark"),
    ("sample --engine ray --actors 0", 2, "--actors"),
    ("sample --engine ray --ray-address ray://there:10001", 2, "Ray client"),
    ("sample --shards csv", 2, "unknown format of shards"),
    ("sample --shard-rows 5", 2, "--shard-rows goes with --shards"),
    ("sample --run {home}", 2, "--bundle and --run exclude each other"),
    ("sample --out {home}/a.jpg", 2, "unknown kind of output: {home}/a.jpg; expected NAME.png | NAME.npy | NAME,"),
    ("sample --out {latents}", 2, "output exists: {latents}; pass --force"),
    ("sample --out {home}/folder.npy --force", 2, "a folder is in the way"),
    (
        "sample --out {home}/mine --force",
        2,
        "not a folder that may be replaced: {home}/mine; expected nothing but *.png",
    ),
    ("sample --out {home}/mine --shards npy --force", 2, "not a folder that may be replaced"),
    ("sample -n 100000000 --out {home}/grid.png", 2, "too many images for one picture"),
    ("sample -n 1000000000000 --out {home}/big.npy", 6, "disk full: {home}/big.npy; expected 3,136,000,000,000,"),
    ("sample -n 1000000000000 --out {home}/big --shards npy", 6, "disk full"),
    ("sample --provider CUDAExecutionProvider --out {home}/new", 6, "provider is not there"),
    ("sample --out {latents}/below", 6, "{latents}/below"),
    ("decode {home}/none.npy", 3, "cannot be read: {home}/none.npy"),
    ("decode {latents} --out {latents} --force", 2, "the input would be overwritten"),
    ("decode {home}/inside/0.npy --out {home}/inside --force", 2, "overwritten: {home}/inside/0.npy; got --out"),
    ("decode {home}/mine", 3, "nothing to read: {home}/mine"),
    ("decode {home}/nan.npy --out {home}/new", 3, "not finite: {home}/nan.npy, row 4"),
    ("decode {home}/nan.npy --out {home}/new.npy", 3, "not finite"),
    ("decode {home}/nan.npy --out {home}/new.png", 3, "not finite"),
    ("decode {home}/nan.npy --out {home}/new --shards npy --shard-rows 2", 3, "not finite"),
    ("decode {home}/nan.npy --out {home}/new --shards parquet --shard-rows 2", 3, "not finite"),
    ("decode {home}/huge.npy --out {home}/new.npy", 3, "counted from {home}/huge.npy, row 0 to 2"),
    ("encode {latents}", 3, "wrong shape: {latents}"),
    ("encode {home}/mine", 3, "no readable image: {home}/mine/notes.txt"),
    ("encode {home}/nan.npy --out {home}/new", 2, "unknown kind of output"),
    ("reconstruct {latents}", 3, "wrong shape"),
]


@pytest.mark.parametrize(("typed", "code", "said"), BAD, ids=[typed for typed, _, _ in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(
    invoke: Invoke, bundle: Path, latents: Path, tmp_path: Path, typed: str, code: int, said: str
) -> None:
    import onnxruntime

    if "CUDA" in typed and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA is there")
    home = tmp_path / "home"
    (home / "mine").mkdir(parents=True)
    (home / "mine" / "notes.txt").write_text("mine")
    (home / "folder.npy").mkdir()
    bad = np.zeros((7, 4), np.float32)
    bad[4, 1] = np.nan
    np.save(home / "nan.npy", bad)
    (home / "inside").mkdir()
    np.save(home / "inside" / "0.npy", np.zeros((1, 4), np.float32))
    np.save(home / "huge.npy", np.full((3, 4), 3e38, np.float32))
    before = tree(tmp_path)
    outcome = invoke(*(word.format(home=home, latents=latents) for word in typed.split()), "--bundle", bundle)
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert re.search(re.escape(said.format(home=home, latents=latents)), outcome.err.splitlines()[-1])
    assert outcome.err.startswith("vae-export: error: ")
    assert len(outcome.err.splitlines()) == 1
    assert tree(tmp_path) == before


def test_force_replaces_what_we_wrote(invoke: Invoke, bundle: Path, tmp_path: Path) -> None:
    for count in (5, 3):
        for out, more in (("a.npy", ()), ("a.png", ()), ("a", ()), ("b", ("--shards", "npy"))):
            arguments = ("sample", "-n", count, "--bundle", bundle, "--out", tmp_path / out, *more, "--force")
            assert invoke(*arguments).code == 0
    assert len(np.load(tmp_path / "a.npy")) == 3
    assert len(list((tmp_path / "a").iterdir())) == 3


@pytest.mark.parametrize("name", ["a.npy", "a", "b"])
def test_a_disk_that_fills_is_exit_code_6(
    invoke: Invoke, bundle: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from vae_export.sinks import arrays, shards

    for module in (arrays, shards):  # somebody else fills it meanwhile
        monkeypatch.setattr(module, "check_room", lambda *_: None)
    options = ("--shards", "npy", "--shard-rows", 100) if name == "b" else ()
    said = invoke("sample", "-n", 3000, "--bundle", bundle, "--out", small_disk / name, *options)
    assert said.code == 6
    assert "disk full" in said.err
    assert list(small_disk.iterdir()) == []


STOPS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.mark.parametrize("out", ["a.npy", "a", "a.npz", "b"])
@pytest.mark.parametrize(("stop", "code"), STOPS, ids=["SIGINT", "SIGTERM"])
def test_a_stop_leaves_nothing(bundle: Path, tmp_path: Path, out: str, stop: int, code: int) -> None:
    home = tmp_path / "home"
    home.mkdir()
    if out == "a.npz":
        np.save(tmp_path / "images.npy", np.zeros((2_000_000, 28, 28), np.uint8))
        typed = ["encode", tmp_path / "images.npy"]
    else:
        typed = ["sample", "-n", 3_000_000]
        typed.append("--levels")
    typed += ["--shards", "npy"] if out == "b" else []
    process = subprocess.Popen(
        command(*typed, "--bundle", bundle, "--out", home / out, "--batch-size", 64, "--levels")[
            : None if out != "a.npz" else -1
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: bool(list(home.iterdir())), process)
    time.sleep(0.3)  # into the midst of it
    process.send_signal(stop)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert err.splitlines()[-1].startswith("vae-export: ")
    assert list(home.iterdir()) == []


def until(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


PEAK = """if True:
    import re, sys
    from pathlib import Path
    from vae_export.cli.app import run
    code = run()
    # Not ru_maxrss: that counts the process that started this one.
    print(*re.findall(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()), file=sys.stderr)
    sys.exit(code)
"""


def peak(*arguments: object) -> int:
    """The most memory that a command took, in MB."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stderr.splitlines()[-1]) // 1024


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "out", "more"), [("npy", "out.npy", ()), ("npz", "out", ("--shards", "parquet"))], ids=["npy", "npz"]
)
def test_memory_does_not_grow_with_the_input(
    bundle: Path, tmp_path: Path, kind: str, out: str, more: tuple[str, ...]
) -> None:
    """160 MB of levels, 630 MB as the network takes them: no more memory than for an eighth of it."""
    noise = np.random.default_rng(0).integers(0, 256, (25_000, 28, 28), np.uint8)
    peaks = []
    for times in (1, 8):
        source = tmp_path / f"images-{times}.{kind}"
        if kind == "npy":
            np.save(source, np.tile(noise, (times, 1, 1)))
        else:
            np.savez_compressed(source, image=np.tile(noise, (times, 1, 1)))
        common = ("--bundle", bundle, "--threads", 1, "--levels", "--force")
        peaks.append(peak("reconstruct", source, *common, "--out", tmp_path / out, *more))
    assert peaks[1] < peaks[0] + 60, peaks


@pytest.mark.parametrize(
    ("block", "typed", "extra"),
    [
        ("PIL", ["sample", "--out", "a.png"], "pictures"),
        ("PIL", ["sample", "--out", "a"], "pictures"),
        ("PIL", ["encode", "a.gif"], "pictures"),
        ("pyarrow", ["sample", "--out", "a", "--shards", "parquet"], "parquet"),
        ("pyarrow", ["decode", "a.parquet"], "parquet"),
        ("ray", ["sample", "--out", "a.npy", "--engine", "ray"], "ray"),
    ],
)
def test_what_is_missing_is_named_with_its_pip_line(
    bundle: Path, tmp_path: Path, block: str, typed: list[str], extra: str
) -> None:
    code = f"""if True:
        import sys
        import importlib.util
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name: None if name == {block!r} else find(name)
        sys.modules[{block!r}] = sys.modules["torch"] = None
        sys.argv = ["cli.py", *{typed!r}, "--bundle", {str(bundle)!r}]
        from vae_export.cli.app import run
        sys.exit(run())
    """
    (tmp_path / "here").mkdir()
    for name in ("a.gif", "a.parquet"):
        (tmp_path / "here" / name).write_bytes(b"x")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "here",
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 6, done.stderr
    assert done.stderr.endswith(f"{block} is not installed; run: pip install 'vae-export[{extra}]'\n")
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["a.gif", "a.parquet"]


def test_arrays_need_neither_torch_nor_pictures(bundle: Path, latents: Path, tmp_path: Path) -> None:
    heavy = ("torch", "PIL", "pyarrow", "ray", "onnx", "safetensors", "train")
    code = f"""if True:
        import sys
        for name in {heavy}:
            sys.modules[name] = None
        sys.argv = ["cli.py", "decode", {str(latents)!r}, "--bundle", {str(bundle)!r}, "--out", "a.npy"]
        from vae_export.cli.app import run
        sys.exit(run())
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert len(np.load(tmp_path / "a.npy")) == 53
