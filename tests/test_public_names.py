"""The public names of `vae_export`. A change here affects every user and belongs into the changelog."""

from __future__ import annotations

import pytest

import vae_export
from tests.commands import run_python


def test_public_names_are_unchanged() -> None:
    assert vae_export.__all__ == [
        "Artifact",
        "Certificate",
        "Checkpoint",
        "Condition",
        "Contract",
        "Model",
        "Source",
        "Symbol",
        "VaeExportError",
        "__version__",
        "bundle",
        "export",
        "load",
        "load_checkpoint",
        "load_source",
        "open_artifact",
        "save_checkpoint",
        "verify",
    ]


@pytest.mark.parametrize("name", vae_export.__all__)
def test_public_names_exist_and_are_documented(name: str) -> None:
    value = getattr(vae_export, name)
    assert name in dir(vae_export)
    assert isinstance(value, str) or value.__doc__


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'vae_export' has no attribute 'expotr'"):
        _ = vae_export.expotr  # type: ignore[attr-defined]


@pytest.mark.slow
def test_importing_the_package_costs_nothing() -> None:
    result = run_python("import sys, vae_export; print(*sys.modules)")
    assert result.returncode == 0, result.stderr
    assert {"numpy", "torch", "onnxruntime", "typer", "rich"} & set(result.stdout.split()) == set()


@pytest.mark.slow
def test_submodules_can_still_be_imported_by_their_names() -> None:
    """`vae_export.export` is a function; `vae_export.exporter` and the rest are modules."""
    result = run_python("import vae_export.exporter, vae_export; assert callable(vae_export.export); vae_export.verify")
    assert result.returncode == 0, result.stderr


def test_library_never_imports_train() -> None:
    from tests.commands import ROOT

    for path in (ROOT / "vae_export").rglob("*.py"):
        assert "import train" not in path.read_text("utf-8")
        assert "from train" not in path.read_text("utf-8")
