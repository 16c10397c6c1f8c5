"""Bad arguments are refused before any work, and only an export is ever replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from tests.commands import tree
from tests.conftest import Exported
from tests.exporter.conftest import Toy
from vae_export import Contract, Source, bundle, export
from vae_export.errors import MachineError, ModelError, OutputExistsError, UsageError


def test_unavailable_format_is_refused_with_the_reason(toy: Toy, source: Source, tmp_path: Path) -> None:
    toy.reason = "PyTorch is too old"
    with pytest.raises(MachineError, match="format toy cannot be written here; got PyTorch is too old"):
        export(source, tmp_path / "out", formats=["toy"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"formats": ["zip"]}, r"unknown format; expected onnx \| .*, got zip"),
        ({"formats": []}, "formats must be given, each once"),
        ({"formats": ["pt2", "pt2"]}, "formats must be given, each once"),
        ({"parts": ["encoder"]}, "part cannot be made: encoder; expected decoder"),
        ({"parts": ["head"]}, "part cannot be made: head"),
        ({"parts": []}, "no part was asked for"),
        ({"opset": 5}, "opset cannot be written"),
        ({"out": "."}, "not a valid output name"),
    ],
)
def test_bad_arguments_are_refused(source: Source, tmp_path: Path, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        export(source, **({"out": tmp_path / "out"} | arguments))  # type: ignore[arg-type]
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("other", [nn.Identity(), "model.pt", None, (nn.Identity(), nn.Identity())])
def test_anything_but_a_source_is_refused_with_what_to_pass(tmp_path: Path, other: Any) -> None:
    said = rf"not a model to export; expected a Source, got {type(other).__name__}; pass Source\(contract, "
    for call in (export, bundle):
        if call is bundle and isinstance(other, str):  # the folder of an export
            continue
        with pytest.raises(UsageError, match=said):
            call(other, tmp_path / "out")
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", ["file", "folder of something else"])
def test_folder_that_is_not_an_export_is_never_replaced(source: Source, tmp_path: Path, kind: str, force: bool) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "thesis.tex").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="not an export folder" if force else "output exists: .*; pass force=True"):
        export(source, out, force=force)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("other", ["index.html", "icons/decoder.onnx", "golden/latent/0.f32", "accepted.json"])
def test_export_with_other_files_beside_is_never_replaced(source: Source, tmp_path: Path, other: str) -> None:
    """A web application has a manifest.json too."""
    out = tmp_path / "public"
    for name in (
        "manifest.json",
        "certificate.html",
        "decoder.int8.onnx",
        "decoder-uint8-hwc.onnx",
        "golden/a.f32",
        other,
    ):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("{}")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=f"nothing but what export, verify, bench and tune write, got {other};"):
        export(source, out, force=True)
    assert tree(tmp_path) == before


@pytest.mark.usefixtures("toy")
def test_options_are_checked_before_any_file_is_written(source: Source, tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(UsageError, match="no such thing"):
        export(source, tmp_path / "out", formats=["torchscript", "toy"], opset=99, report=said.append)
    assert said == []
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_refused_before_any_work(source: Source, mlp: Exported) -> None:
    said: list[str] = []
    with pytest.raises(OutputExistsError):
        export(source, mlp.folder, report=said.append)
    assert said == []


def test_other_parts_are_named_where_one_cannot_be_captured(tmp_path: Path) -> None:
    def by_value(latent: Tensor) -> Tensor:
        return latent.new_ones(len(latent), 1, 2, 2) * (2 if latent.sum() > 0 else 1)

    class Decoder(nn.Module):
        def forward(self, latent: Tensor) -> Tensor:
            return by_value(latent)

    class Encoder(nn.Module):
        def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
            return image.flatten(1), image.flatten(1)

    source = Source(Contract((1, 2, 2), (4,)), Encoder(), Decoder())
    with pytest.raises(ModelError, match=r"cannot be captured: decoder.*; --part encoder leaves the decoder out$"):
        export(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
