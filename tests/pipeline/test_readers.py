"""Readers of arrays, Parquet, image files and seeds, with their conversions."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from tests.pipeline.specs import COLOUR, IMAGE, LATENT, latents
from vae_export.contract import Contract
from vae_export.errors import DataError, UsageError
from vae_export.pipeline.readers import PriorReader, open_images, open_latents
from vae_export.tensors import TensorSpec


def write(path: Path, array: np.ndarray) -> Path:
    """Write the array as the kind of file or folder that the name says, in blocks of odd sizes that reads cross."""
    match path.suffix:
        case ".npy":
            np.save(path, array)
        case ".npz":
            np.savez_compressed(path, other=array[::-1], latent=array)
        case ".parquet":
            column = pa.FixedShapeTensorArray.from_numpy_ndarray(array)
            parquet.write_table(pa.table({"latent": column}), path, row_group_size=5)
        case _:
            path.mkdir()
            for start in range(0, len(array), 6):
                np.save(path / f"mean-{start:05}.npy", array[start : start + 6])
                np.save(path / f"logvar-{start:05}.npy", array[start : start + 6] + 1)
    return path


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.parquet", "shards"])
def test_any_rows_of_any_file_equal_those_of_the_array(tmp_path: Path, name: str) -> None:
    array = latents()
    reader = open_latents(write(tmp_path / name, array), LATENT)
    copied = copy.deepcopy(reader)  # which pickles it, as on the way to a worker
    assert reader.rows == len(array)

    @given(st.lists(st.tuples(st.integers(0, 22), st.integers(1, 23)), min_size=1, max_size=5))
    def check(spans: list[tuple[int, int]]) -> None:
        for start, length in spans:  # forwards, backwards, overlapping
            stop = min(start + length, 23)
            assert np.array_equal(reader.read(start, stop), array[start:stop])
            assert np.array_equal(copied.read(start, stop), array[start:stop])

    check()


@pytest.mark.parametrize("dtype", [">f4", "<f4", ">f8", "<f8", ">f2", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_byte_order_of_the_file_is_converted(tmp_path: Path, dtype: str, order: str) -> None:
    array = latents().astype(np.float16)
    np.save(tmp_path / "a.npy", np.asarray(array.astype(dtype), order=order))
    got = open_latents(tmp_path / "a.npy", LATENT).read(3, 17)
    assert got.dtype == np.float32
    assert np.array_equal(got, array[3:17].astype(np.float32))


def test_feature_map_latents_in_fortran_order(tmp_path: Path) -> None:
    array = np.arange(7 * 24, dtype=np.float32).reshape(7, 2, 3, 4)
    np.save(tmp_path / "a.npy", np.asfortranarray(array))
    spec = Contract((1, 6, 5), (2, 3, 4)).spec("decoder").inputs[0]
    assert np.array_equal(open_latents(tmp_path / "a.npy", spec).read(2, 6), array[2:6])


@pytest.mark.parametrize("spec", [IMAGE, COLOUR])
def test_levels_are_scaled_to_the_range_of_pixels(tmp_path: Path, spec: TensorSpec) -> None:
    array = np.random.default_rng(0).integers(0, 256, (9, *spec.fixed_item), dtype=np.uint8)
    expected = spec.low + (spec.high - spec.low) * (array.astype(np.float64) / 255)
    np.save(tmp_path / "a.npy", array)
    got = open_images(tmp_path / "a.npy", spec).read(0, 9)
    assert np.array_equal(got, expected.astype(np.float32))
    np.save(tmp_path / "last.npy", array.transpose(0, 2, 3, 1))
    assert np.array_equal(open_images(tmp_path / "last.npy", spec).read(0, 9), got)
    if spec.item[0] == 1:
        np.save(tmp_path / "nowhere.npy", array[:, 0])
        assert np.array_equal(open_images(tmp_path / "nowhere.npy", spec).read(0, 9), got)


def test_image_files_are_read_in_order_of_their_paths(tmp_path: Path) -> None:
    for level, name in ((10, "b/1.png"), (20, "a.png"), (30, "b/0.bmp")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (5, 6), level).save(tmp_path / name)
    (tmp_path / ".hidden.png").write_bytes(b"x")
    got = open_images(tmp_path, IMAGE).read(0, 3)
    assert (got[:, 0, 0, 0] * 255).round().tolist() == [20, 30, 10]
    assert open_images(tmp_path / "a.png", IMAGE).rows == 1


def test_images_are_fitted_only_with_fit(tmp_path: Path) -> None:
    Image.new("RGB", (50, 60), "orange").save(tmp_path / "a.png")
    Image.new("L", (5, 6), 7).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"^image of another size: .*a\.png; expected 5 x 6, got 50 x 60; pass --fit"):
        open_images(tmp_path, IMAGE).read(0, 2)
    assert open_images(tmp_path, IMAGE, fit=True).read(0, 2).shape == (2, 1, 6, 5)
    Image.new("RGB", (5, 6), "orange").save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"^image in colour: .*a\.png"):
        open_images(tmp_path, IMAGE).read(0, 2)
    assert open_images(tmp_path, COLOUR).read(0, 2)[0, :, 0, 0].tolist() == pytest.approx([1, 2 * 165 / 255 - 1, -1])


def test_prior_is_equal_whole_and_in_chunks() -> None:
    prior = PriorReader(100, 2**64 - 1, Contract((6,), (2, 3), None), "latent")
    whole = prior.read(0, 100)
    assert np.array_equal(np.concatenate([prior.read(0, 33), prior.read(33, 34), prior.read(34, 100)]), whole)
    with pytest.raises(UsageError, match="bad seed"):
        PriorReader(1, -1, Contract((6,), (2,), None), "latent")


def test_flat_lists_are_read_as_images(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((5, 1, 6, 5), np.float32)
    parquet.write_table(pa.table({"image": list(array.reshape(5, -1))}), tmp_path / "a.parquet")
    assert np.array_equal(open_images(tmp_path / "a.parquet", IMAGE).read(0, 5), array)


def test_ambiguous_array_needs_a_field(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", first=latents(), second=latents(7))
    with pytest.raises(DataError, match=r"^no such array: .*expected 'latent' or 'mean', got first, second; .*--field"):
        open_latents(tmp_path / "two.npz", LATENT)
    assert open_latents(tmp_path / "two.npz", LATENT, field="second").rows == 7
    np.savez(tmp_path / "one.npz", anything=latents())
    assert open_latents(tmp_path / "one.npz", LATENT).rows == 23
