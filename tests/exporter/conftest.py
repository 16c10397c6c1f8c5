"""A small source, and a toy format whose faults the tests choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from tests import sample_models
from vae_export import Source
from vae_export.artifact.manifest import FileContent
from vae_export.capture import Graph
from vae_export.contract import Array, PartSpec
from vae_export.errors import TargetError, UsageError
from vae_export.formats import FORMATS, Runner, WriteOptions
from vae_export.formats.base import Finding, Format, StatedFile
from vae_export.session_options import SessionOptions


@pytest.fixture(scope="session")
def source() -> Source:
    """Small and quick: a decoder of 4 by 4 pixels."""
    return replace(Source.of(sample_models.checkpoint("mlp", (1, 4, 4))), encoder=None)


class Toy(Format):
    """A format for these tests: raw weights, run by the graph's own module, with `wrong` added to every output."""

    name, suffix, extra, summary = "toy", ".toy", "export", "for this test"
    packages = ()
    engine = "torch"
    wrong = 0.0
    reason: str | None = None
    runs_on: tuple[str, ...] = ("here",)

    def unavailable(self) -> str | None:
        return self.reason

    def check(self, options: WriteOptions) -> None:
        if options.opset == 99:
            raise UsageError("no such thing")

    def write(self, graph: Graph, options: WriteOptions) -> FileContent:
        assert set(options.metadata) == {"vae_export.part", "vae_export.contract", "vae_export.provenance"}
        self.module = graph.module
        self.content = FileContent(b"".join(parameter.numpy().tobytes() for parameter in graph.module.parameters()))
        return self.content

    def providers(self) -> tuple[str, ...]:
        return self.runs_on

    def lint(self, _content: FileContent, _stated: StatedFile) -> list[Finding]:
        return []

    def session_options(self, provider: str) -> tuple[SessionOptions, ...]:
        return (SessionOptions(provider, threads=1),)

    def open(self, content: FileContent, spec: PartSpec, options: SessionOptions) -> Runner:
        from vae_export.formats._torch import torch_runner

        assert content == self.content
        if options.provider == "nowhere":
            raise TargetError("toy cannot run", where=options.provider)
        run = torch_runner(self.module, spec, replace(options, provider="cpu"))

        def off(inputs: Mapping[str, Array]) -> dict[str, Array]:
            return {name: array + np.float32(self.wrong) for name, array in run(inputs).items()}

        return Runner(run.bind, off)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    toy = Toy()
    monkeypatch.setitem(FORMATS, "toy", toy)
    return toy
