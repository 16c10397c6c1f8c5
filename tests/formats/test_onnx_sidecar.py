"""Models that are too large for one ONNX file have their weights in a sidecar, which is hashed, bundled and checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests import sample_models
from vae_export import Source, bundle, export, load, open_artifact, verify
from vae_export.capture import capture
from vae_export.errors import IntegrityError, ModelError
from vae_export.formats import FORMATS, WriteOptions
from vae_export.formats.onnx import WEIGHTS, Onnx
from vae_export.session_options import SessionOptions

LATENT = np.linspace(-2, 2, 3 * sample_models.LATENT, dtype=np.float32).reshape(3, -1)


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FORMATS["onnx"], "max_inside", 10_000)


@pytest.mark.slow
def test_weights_move_to_a_sidecar_beyond_the_limit() -> None:
    graph = capture(Source.of(sample_models.checkpoint()), "decoder")
    inside, outside = Onnx().write(graph, WriteOptions()), Onnx(10_000).write(graph, WriteOptions())
    assert not inside.sidecars
    assert list(outside.sidecars) == [WEIGHTS]
    assert len(outside.data) < 10_000 < len(outside.sidecars[WEIGHTS]) < len(inside.data) + 8 * 4096
    options = SessionOptions()
    one, other = (FORMATS["onnx"].open(content, graph.spec, options) for content in (inside, outside))
    np.testing.assert_array_equal(one({"latent": LATENT})["image"], other({"latent": LATENT})["image"])
    assert Onnx(10_000).write(graph, WriteOptions()) == outside
    with pytest.raises(ModelError, match="model too large to be converted to fp16: decoder"):
        Onnx(10_000).write(graph, WriteOptions(precision="fp16"))


@pytest.mark.slow
@pytest.mark.usefixtures("small_limit")
def test_export_with_a_sidecar_is_verified_bundled_and_run(tmp_path: Path) -> None:
    source = sample_models.checkpoint()
    artifact, certificate = export(source, tmp_path / "export", parts=["decoder"])
    assert certificate.passed
    [entry] = artifact.manifest.files
    assert [sidecar.name for sidecar in entry.beside] == ["decoder.data"]
    assert {"decoder.onnx", "decoder.data"} <= set(certificate.files)
    image = load(tmp_path / "export").decode(LATENT)
    # Any engine finds the weights beside the file.
    session = onnxruntime.InferenceSession(tmp_path / "export" / "decoder.onnx")
    np.testing.assert_array_equal(session.run(None, {"latent": LATENT})[0], image)
    bundle(artifact, tmp_path / "decoder.zip")
    np.testing.assert_array_equal(load(tmp_path / "decoder.zip").decode(LATENT), image)
    changed = bytearray((tmp_path / "export" / "decoder.data").read_bytes())
    changed[5000] ^= 1
    (tmp_path / "export" / "decoder.data").write_bytes(changed)
    with pytest.raises(IntegrityError, match=r"decoder\.data"):
        load(tmp_path / "export").decode(LATENT)
    with pytest.raises(IntegrityError, match=r"decoder\.data"):
        verify(open_artifact(tmp_path / "export"), source, thorough=False)
