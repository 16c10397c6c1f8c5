"""The commands `sample`, `decode`, `encode` and `reconstruct`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from pyarrow import parquet

from tests.commands import Invoke, tree
from vae_export import load
from vae_export.pixels import to_levels


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_sample_equals_the_samples_of_the_library(invoke: Invoke, bundle: Path, tmp_path: Path) -> None:
    said = invoke("sample", "-n", 9, "--seed", 7, "--bundle", bundle, "--out", tmp_path / "a.npy")
    assert (said.code, said.err) == (0, "")
    expected = load(bundle).sample(9, 7)
    assert np.array_equal(np.load(tmp_path / "a.npy"), expected)
    assert invoke("sample", "-n", 9, "--seed", 7, "--bundle", bundle, "--out", tmp_path / "a").code == 0
    names = [f"{index:06}.png" for index in range(9)]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    for index, name in enumerate(names):
        assert np.array_equal(pixels(tmp_path / "a" / name), to_levels(expected[index, 0], 0, 1))


def test_grid_shows_each_image_in_its_place(invoke: Invoke, bundle: Path) -> None:
    assert invoke("sample", "-n", 7, "--bundle", bundle).code == 0
    picture = pixels(bundle.with_name("samples.png"))  # the default place: beside the bundle
    assert picture.shape == (3 * 30 - 2, 3 * 30 - 2)
    for index, image in enumerate(load(bundle).sample(7, 0)):
        top, left = 30 * (index // 3), 30 * (index % 3)
        assert np.array_equal(picture[top : top + 28, left : left + 28], to_levels(image[0], 0, 1))
    assert (picture[60:, 30:] == 255).all()


def test_reconstruction_stands_beside_its_image(invoke: Invoke, bundle: Path, tmp_path: Path) -> None:
    assert invoke("sample", "-n", 3, "--bundle", bundle, "--out", tmp_path / "images").code == 0
    assert invoke("reconstruct", tmp_path / "images", "--bundle", bundle).code == 0
    picture = pixels(tmp_path / "reconstructions.png")
    images = np.stack([pixels(path) for path in sorted((tmp_path / "images").iterdir())])
    again = load(bundle).reconstruct((images[:, None] / 255).astype(np.float32))
    assert picture.shape == (58, 118)
    assert np.array_equal(picture[:28, 60:88], images[1])
    assert np.array_equal(picture[:28, 90:118], to_levels(again[1, 0], 0, 1))
    assert np.array_equal(picture[30:58, :28], images[2])


def test_latents_of_every_format_can_be_decoded(invoke: Invoke, bundle: Path, tmp_path: Path) -> None:
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


def test_shards_make_up_the_whole_output(invoke: Invoke, bundle: Path, latents: Path, tmp_path: Path) -> None:
    options = ("--shards", "npy", "--shard-rows", 10, "--levels", "--batch-size", 4, "--threads", 1)
    assert invoke("decode", latents, "--bundle", bundle, *options, "--out", tmp_path / "shards").code == 0
    files = sorted((tmp_path / "shards").iterdir())
    assert [path.name for path in files] == [f"image-{index:05}.npy" for index in range(6)]
    shards = [np.load(path) for path in files]
    assert [len(shard) for shard in shards] == [10, 10, 10, 10, 10, 3]
    assert shards[0].dtype == np.uint8
    expected = load(bundle, batch_size=4, threads=1).decode(np.load(latents))
    assert np.abs(np.concatenate(shards).astype(int) - to_levels(expected, 0, 1)).max() <= 1


def test_run_works_as_well_as_a_bundle(invoke: Invoke, run_folder: Path, latents: Path) -> None:
    said = invoke("decode", latents, "--run", run_folder, "--json")
    assert said.code == 0, said.err
    result = json.loads(said.out)
    assert (result["rows"], result["engine"], result["out"]) == (53, "local", str(run_folder / "decoded"))
    assert len(list((run_folder / "decoded").iterdir())) == 53


def test_colour_images_and_feature_map_latents(invoke: Invoke, foreign: object, tmp_path: Path) -> None:
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


def test_force_replaces_earlier_output(invoke: Invoke, bundle: Path, tmp_path: Path) -> None:
    for count in (5, 3):
        for out, more in (("a.npy", ()), ("a.png", ()), ("a", ()), ("b", ("--shards", "npy"))):
            arguments = ("sample", "-n", count, "--bundle", bundle, "--out", tmp_path / out, *more, "--force")
            assert invoke(*arguments).code == 0
    assert len(np.load(tmp_path / "a.npy")) == 3
    assert len(list((tmp_path / "a").iterdir())) == 3
