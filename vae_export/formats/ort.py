"""ONNX Runtime's own format, for its builds of reduced size: https://onnxruntime.ai/docs/reference/ort-format-models.html

A small build, for a phone or a microcontroller, can neither read ONNX nor optimise a graph. So the optimiser runs here,
at the level `basic`, whose result runs on every machine; higher levels choose operators of this one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vae_export.artifact.manifest import FileContent
from vae_export.contract import PartSpec
from vae_export.errors import ModelError
from vae_export.formats.base import Finding, Format, Runner, StatedFile, WriteOptions, machine_traces
from vae_export.formats.onnx import Onnx, session_runner
from vae_export.formats.onnx_lint import DOMAINS
from vae_export.formats.structure import Structure
from vae_export.session_options import CPU, PROVIDERS, SessionOptions

if TYPE_CHECKING:
    from vae_export.capture import Graph

_LEVEL = "basic"
#: Prefixes of ONNX operators that draw random numbers.
_STOCHASTIC = ("Random", "Bernoulli", "Multinomial", "Dropout")


class Ort(Format):
    """FlatBuffers of ONNX Runtime's format version 6, made from our ONNX files.

    ONNX Runtime writes part of them in the order of a hash table: equal inputs may give files with other bytes.
    """

    name = "ort"
    suffix = ".ort"
    packages = ("onnxruntime", "onnx", "onnxscript")
    engine = "onnxruntime"
    known_providers = PROVIDERS
    summary = "ONNX Runtime's own format, for its small builds on phones and in browsers"
    danger = "is checked by nobody before ONNX Runtime maps it"
    may_crash = True
    is_reproducible = False

    def check(self, options: WriteOptions) -> None:
        """Raise `UsageError` for an operator set that the intermediate ONNX file cannot have."""
        Onnx().check(options)

    def write(self, graph: Graph, options: WriteOptions) -> FileContent:
        """Return the optimised graph in ONNX Runtime's format."""
        import onnxruntime

        from vae_export.runtime.session import LOG_FATAL, OPTIMISATIONS

        model = Onnx().write(graph, options)
        if model.sidecars:
            raise ModelError("model too large for one file", where=graph.spec.part, do="export ONNX")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.ort"
            session = onnxruntime.SessionOptions()
            session.log_severity_level = LOG_FATAL
            session.graph_optimization_level = OPTIMISATIONS[_LEVEL]
            session.optimized_model_filepath = str(path)
            session.add_session_config_entry("session.save_model_format", "ORT")
            onnxruntime.InferenceSession(model.data, session, providers=[CPU])
            return FileContent(path.read_bytes())

    def lint(self, content: FileContent, stated: StatedFile) -> Iterator[Finding]:
        """Find stochastic and foreign operators, and traces of this machine; raise `ValueError` for another format."""
        from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

        if not InferenceSession.InferenceSessionBufferHasIdentifier(content.data, 0):
            raise ValueError("not an ORT file")
        model = InferenceSession.GetRootAs(content.data).Model()
        graph = model.Graph()
        nodes = [graph.Nodes(place) for place in range(graph.NodesLength())]
        properties = [model.MetadataProps(place) for place in range(model.MetadataPropsLength())]
        texts = [text for node in nodes for text in (node.Name(), node.DocString())]
        texts += [graph.NodeArgs(place).Name() for place in range(graph.NodeArgsLength())]
        texts += [model.DocString(), *(text for item in properties for text in (item.Key(), item.Value()))]
        yield from machine_traces(b"\n".join(text for text in texts if text), stated.name)
        for node in nodes:
            operator, domain = node.OpType().decode(), node.Domain().decode()
            where = f"{stated.name}, node '{node.Name().decode()}'"
            if operator.startswith(_STOCHASTIC):
                yield Finding("random-operator", "error", where, operator)
            if domain not in DOMAINS:
                yield Finding("foreign-domain", "error", where, f"{domain} {operator}")

    def structure(self, content: FileContent) -> Structure:
        """Return operators, constants, inputs, outputs and metadata of the graph."""
        from vae_export.formats.ort_structure import ort_structure

        return ort_structure(content.data)

    def providers(self) -> tuple[str, ...]:
        """Return the CPU alone: GPU providers change graphs, and this one is already optimised."""
        return (CPU,)

    def open(self, content: FileContent, spec: PartSpec, options: SessionOptions) -> Runner:
        """Open a session of ONNX Runtime with the options."""
        from vae_export.runtime.session import Session

        return session_runner(Session(content.data, spec, options))
