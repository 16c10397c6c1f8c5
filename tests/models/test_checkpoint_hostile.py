"""A file made to do harm runs nothing and takes no memory."""

from __future__ import annotations

import os
import pickle  # noqa: TID251 -- to write the canary that must not run
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from vae_export import load_checkpoint
from vae_export.errors import CheckpointError, VaeExportError


class Canary:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("dump", [pickle.dumps, lambda value: torch_pickle(value)])
def test_pickle_is_refused_and_never_run(tmp_path: Path, dump: Callable[[object], bytes]) -> None:
    data = dump({"state_dict": Canary(tmp_path / "canary")})
    (tmp_path / "checkpoint.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match="checkpoint cannot be read"):
        load_checkpoint(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "canary").exists()
    pickle.loads(pickle.dumps(Canary(tmp_path / "canary")))  # noqa: S301 -- the canary can sing
    assert (tmp_path / "canary").exists()


def torch_pickle(value: object) -> bytes:
    import io

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("header", "tensors"),
    [
        (1 << 40, b""),
        (1 << 63, b""),
        (None, b'{"examples":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}'),
        (None, b'{"__metadata__":' + b"[" * 100_000 + b"}"),
        (None, b'{"x":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,8]}}' + b"\0" * 8),
    ],
)
def test_header_that_claims_gigabytes_allocates_none(tmp_path: Path, header: int | None, tensors: bytes) -> None:
    import tracemalloc

    path = tmp_path / "bomb"
    path.write_bytes(struct.pack("<Q", len(tensors) if header is None else header) + tensors)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("kind", ["missing", "folder", "device", "pipe"])
def test_path_that_is_not_a_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(CheckpointError, match="no such file" if kind == "missing" else "not a file"):
        load_checkpoint(path)


def test_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    for metadata in (None, {"vae_export": "{"}, {"vae_export": "[]"}, {"vae_export": '"text"'}):
        (tmp_path / "file").write_bytes(save({"examples": torch.zeros(1)}, metadata=metadata))
        with pytest.raises(VaeExportError, match="expected a checkpoint of"):
            load_checkpoint(tmp_path / "file")
