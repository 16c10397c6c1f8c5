"""The engine of this process: chunks come in order, however many threads finish them, and errors come through."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from vae_export import load
from vae_export.contract import Array
from vae_export.errors import DataError, StorageError
from vae_export.pipeline import Chunks, Inputs, LocalEngine, Task
from vae_export.pipeline.readers import Reader
from vae_export.pipeline.writers import Shards
from vae_export.runtime import Model

ROWS, CHUNK = 90, 7


@dataclass(frozen=True)
class Latents:
    """Rows of normal numbers, the last of which cannot be read where that is asked for."""

    breaks: bool = False
    rows, item, dtype = ROWS, (4,), np.dtype(np.float32)

    def read(self, start: int, stop: int) -> Array:
        if self.breaks and stop == ROWS:
            raise DataError("cannot be read", where=self.locate(start))
        return np.random.default_rng(start).standard_normal((stop - start, 4)).astype(np.float32)

    def locate(self, row: int) -> str:
        return f"latents, row {row}"


@pytest.fixture
def model(bundle: Path) -> Model:
    return load(bundle, threads=1)


def decode(model: Model, threads: int, reader: Reader, shards: Shards | None = None) -> list[dict[str, Array]]:
    task = Task("decode", Inputs(reader), levels=True, shards=shards)
    return list(LocalEngine(model, threads).run(task, Chunks(ROWS, CHUNK)))


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_chunks_come_in_order_whatever_the_threads(model: Model, threads: int) -> None:
    alone, found = decode(model, 1, Latents()), decode(model, threads, Latents())
    assert [len(chunk["image"]) for chunk in found] == [7] * 12 + [6]
    for one, other in zip(alone, found, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])


def test_shards_of_several_threads_are_all_there(model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    assert decode(model, 4, Latents(), Shards(folder, "npy", ("image",))) == [{}] * 13
    found = [np.load(path) for path in sorted(folder.iterdir())]
    expected = [chunk["image"] for chunk in decode(model, 1, Latents())]
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(expected))


@pytest.mark.parametrize("threads", [1, 4])
def test_errors_of_reading_and_writing_come_through_and_no_thread_stays(
    model: Model, threads: int, tmp_path: Path
) -> None:
    before = threading.active_count()
    with pytest.raises(DataError, match="latents, row 84"):
        decode(model, threads, Latents(breaks=True))
    with pytest.raises(StorageError, match="output folder is missing"):
        decode(model, threads, Latents(), Shards(tmp_path / "gone", "npy", ("image",)))
    assert threading.active_count() == before
