"""Every format that can be written here takes integers, several inputs and open sizes."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from tests.capture.test_modules import CAPTURED, Case
from tests.sample_models import QUICK
from vae_export.capture import Captured, Graph
from vae_export.capture.program import example_inputs
from vae_export.formats import FORMATS, WriteOptions
from vae_export.formats.base import StatedFile
from vae_export.parity.oracle import evaluate_graph
from vae_export.tensors import BATCH


@functools.cache
def graphs(name: str) -> tuple[Graph, ...]:
    case: Case = CAPTURED[name]
    return tuple(Captured(case.source()).graphs().values())


@pytest.mark.slow
@pytest.mark.parametrize("format", QUICK)
@pytest.mark.parametrize("name", ["conditions", "several latents", "codes", "any size from data", "float32 inside"])
def test_file_computes_what_pytorch_computes(format: str, name: str) -> None:
    writer = FORMATS[format]
    for graph in graphs(name):
        content = writer.write(graph, WriteOptions())
        assert not list(writer.lint(content, StatedFile(f"{graph.spec.part}{writer.suffix}", 20)))
        run = writer.open(content, graph.spec, writer.session_options(writer.providers()[0])[0])
        free = [symbol for symbol in graph.spec.symbols if symbol != BATCH]
        for rows, size in ((1, 8), (3, 5)):
            spec = graph.spec.at(dict.fromkeys(free, size))
            inputs = {
                tensor.name: value.numpy()
                for tensor, value in zip(spec.inputs, example_inputs(spec, rows, seed=rows), strict=True)
            }
            expected = evaluate_graph(graph, inputs)
            outputs = run(inputs)
            assert {key: array.dtype for key, array in outputs.items()} == {
                t.name: np.dtype(t.dtype) for t in spec.outputs
            }
            for key, array in outputs.items():
                np.testing.assert_allclose(array, expected[key], rtol=1e-5, atol=1e-5)
