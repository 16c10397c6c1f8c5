"""The header of a checkpoint: what `load_checkpoint` says too, without torch and without the weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import sample_models
from tests.commands import run_python
from vae_export import load_checkpoint, save_checkpoint
from vae_export.errors import CheckpointError
from vae_export.models import FAMILIES
from vae_export.models.checkpoint import read_checkpoint_header
from vae_export.models.config import Family


@pytest.mark.parametrize("family", FAMILIES)
def test_header_agrees_with_the_checkpoint(family: Family, tmp_path: Path) -> None:
    path = tmp_path / "file"
    save_checkpoint(sample_models.checkpoint(family), path)
    header, whole = read_checkpoint_header(path), load_checkpoint(path)
    assert (header.config, header.provenance) == (whole.config, whole.provenance)
    assert header.parameters == sum(parameter.numel() for parameter in whole.model().parameters())


def test_digest_identifies_the_checkpoint(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        save_checkpoint(sample_models.checkpoint("mlp", (1, 4, 4), seed=seed), tmp_path / name)
    one, again, other = (read_checkpoint_header(tmp_path / name).digest for name in ("one", "again", "other"))
    assert one == again != other


@pytest.mark.slow
def test_reading_the_header_does_not_import_torch(tmp_path: Path) -> None:
    save_checkpoint(sample_models.checkpoint("mlp", (1, 4, 4)), tmp_path / "file")
    code = "import sys; from pathlib import Path; from vae_export.models.checkpoint import read_checkpoint_header\n"
    code += "print(read_checkpoint_header(Path(sys.argv[1])).parameters, 'torch' in sys.modules)"
    done = run_python(code, tmp_path / "file")
    assert done.stdout.split()[1:] == ["False"], done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("whole") / "file"
    save_checkpoint(sample_models.checkpoint("mlp", (1, 4, 4)), path)
    return path.with_name("damaged"), path.read_bytes()


@given(fraction=st.floats(0, 1, exclude_max=True))
def test_truncated_file_is_refused(whole: tuple[Path, bytes], fraction: float) -> None:
    path, data = whole
    path.write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(CheckpointError):
        read_checkpoint_header(path)


@given(junk=st.binary(max_size=64))
def test_arbitrary_bytes_are_refused(whole: tuple[Path, bytes], junk: bytes) -> None:
    path, _ = whole
    path.write_bytes(junk)
    with pytest.raises(CheckpointError):
        read_checkpoint_header(path)


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"__metadata__": []},
        {"__metadata__": {"vae_export": "{"}},
        {"__metadata__": {"vae_export": "[]"}},
        {"__metadata__": {"vae_export": json.dumps({"format": "vae-export-checkpoint/2"})}},
        {"__metadata__": {"vae_export": json.dumps({"format": "vae-export-checkpoint/1", "provenance": {}})}},
        {"model.weight": {"data_offsets": [0]}},
        {"model.weight": "x"},
    ],
    ids=str,
)
def test_foreign_header_is_refused(tmp_path: Path, document: object) -> None:
    text = json.dumps(document).encode()
    (tmp_path / "file").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(CheckpointError):
        read_checkpoint_header(tmp_path / "file")


def test_folder_or_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", Path("/dev/zero")):
        with pytest.raises(CheckpointError):
            read_checkpoint_header(path)
