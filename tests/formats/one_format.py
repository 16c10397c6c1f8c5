"""What the tests of several formats check of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.commands import Invoke
from tests.conftest import Exported
from tests.formats.test_formats import inputs
from vae_export import Artifact, open_artifact
from vae_export.artifact.folder import read_content
from vae_export.artifact.manifest import MANIFEST, FileContent, FileEntry
from vae_export.contract import Part
from vae_export.errors import MissingExtraError
from vae_export.formats import FORMATS
from vae_export.parity import References
from vae_export.parity.oracle import evaluate_graph
from vae_export.session_options import SessionOptions


def assert_missing_package_is_reported(format: str, package: str, mlp: Exported, invoke: Invoke, folder: Path) -> None:
    """Without the package of a format, exporting is one line with what to install, and opening a file an error."""
    wanted = str(MissingExtraError(package, format))
    assert wanted.startswith(f"{package} is not installed; run: pip install 'vae-export[{format}]'")
    refused = invoke("export", "--checkpoint", mlp.checkpoint, "--out", folder / "out", "--format", format)
    assert (refused.code, refused.err.count("\n")) == (6, 1)
    assert refused.err == f"vae-export: error: format {format} cannot be written here; got {wanted}\n"
    assert not (folder / "out").exists()
    with pytest.raises(MissingExtraError, match="pip install"):
        FORMATS[format].open(FileContent(b""), mlp.source.contract.spec("decoder"), SessionOptions("cpu", threads=1))


def assert_rows_are_computed_one_by_one(artifact: Artifact, references: References, part: Part, format: str) -> None:
    """Any batch gives what PyTorch gives, twice the same, and leaves the inputs as they were."""
    graph, content = references.captured.graph(part), read_content(artifact, artifact.entry(part, format))
    for options in FORMATS[format].session_options("cpu"):
        run = FORMATS[format].open(content, graph.spec, options)
        for batch in (1, 5):
            given = inputs(Exported(references.source, artifact), part, batch)
            kept = {name: array.copy() for name, array in given.items()}
            outputs, expected = run(given), evaluate_graph(graph, given)
            assert list(outputs) == [tensor.name for tensor in graph.spec.outputs]
            with run.bind(given) as bound:
                bound.call()
                again = bound.fetch(bound.call())
            for tensor in graph.spec.outputs:
                tensor.check(outputs[tensor.name], batch=batch)
                np.testing.assert_allclose(outputs[tensor.name], expected[tensor.name], rtol=1e-4, atol=1e-5)
                np.testing.assert_array_equal(outputs[tensor.name], again[tensor.name])
            for name, array in given.items():
                np.testing.assert_array_equal(array, kept[name])


def with_decoder_alone(artifact: Artifact, folder: Path, format: str, content: FileContent) -> Artifact:
    """Return an export of other content for the decoder, with the right hashes in its manifest."""
    folder.mkdir()
    entry = artifact.entry("decoder", format)
    for name, data in content.by_name(entry.name).items():
        (folder / name).write_bytes(data)
    files = (FileEntry.of(entry.name, "decoder", format, content),)
    (folder / MANIFEST).write_bytes(replace(artifact.manifest, files=files, golden=()).text)
    return open_artifact(folder)
