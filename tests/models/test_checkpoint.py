"""Checkpoints come back as they were written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import sample_models
from tests.commands import run_python
from vae_export import Checkpoint, load_checkpoint, save_checkpoint
from vae_export.models import FAMILIES
from vae_export.models.config import Family


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpoint_survives_saving_and_loading(family: Family, tmp_path: Path) -> None:
    before = sample_models.checkpoint(family)
    save_checkpoint(before, tmp_path / "file")
    after = load_checkpoint(tmp_path / "file")
    assert after.config == before.config
    assert after.provenance == before.provenance
    assert torch.equal(after.examples, before.examples)
    assert after.weights.keys() == before.weights.keys()
    assert all(torch.equal(after.weights[name], before.weights[name]) for name in before.weights)
    image = torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        assert torch.equal(after.model().encoder(image)[0], before.model().encoder(image)[0])


def test_model_is_in_eval_mode() -> None:
    assert not any(module.training for module in sample_models.checkpoint("blog").model().modules())


@pytest.mark.slow
def test_equal_checkpoints_give_equal_bytes_in_any_process(tmp_path: Path, small_bytes: bytes) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from tests import sample_models
        from vae_export import save_checkpoint
        save_checkpoint(sample_models.checkpoint("mlp", (1, 4, 4)), Path(sys.argv[1]))
    """
    assert run_python(code, tmp_path / "file").returncode == 0
    assert (tmp_path / "file").read_bytes() == small_bytes


def test_sha256_is_that_of_the_file(tmp_path: Path, small_bytes: bytes) -> None:
    from vae_export.io.atomic import sha256

    (tmp_path / "file").write_bytes(small_bytes)
    assert load_checkpoint(tmp_path / "file").sha256 == sha256(small_bytes)


@pytest.mark.parametrize("name", ["with space", os.fsdecode(b"\xff\xfe"), "zeichen-äöü"])
def test_checkpoint_is_saved_under_any_valid_path(tmp_path: Path, small: Checkpoint, name: str) -> None:
    save_checkpoint(small, tmp_path / name / "file")
    assert load_checkpoint(tmp_path / name / "file").config == small.config


def test_header_is_plain_json(small_bytes: bytes) -> None:
    length = int(np.frombuffer(small_bytes[:8], "<u8")[0])
    metadata = json.loads(small_bytes[8 : 8 + length])["__metadata__"]
    assert list(metadata) == ["vae_export"]
    assert json.loads(metadata["vae_export"])["config"]["family"] == "mlp"
