"""The page of timings shows all results and needs no other file."""

from __future__ import annotations

import re
from dataclasses import replace

from tests.conftest import Exported
from vae_export.artifact.certificate import read_certificate
from vae_export.bench.results import Timings
from vae_export.report import timings_page
from vae_export.report.text import duration
from vae_export.report.timings_charts import COLOURS, Axis, LineStyle, trade_off
from vae_export.report.timings_page import errors


def test_page_has_every_result_and_loads_nothing(timings: Timings, mlp: Exported) -> None:
    page = timings_page(timings, read_certificate(mlp.artifact.certificate))
    for result in timings.results:
        assert duration(result.p50_seconds) in page
    assert page.count('<svg class="chart" viewBox') == 3, "latencies with one thread, and errors at two batch sizes"
    assert not re.search(r"<script|src=|href=\"(?!data:,)|url\(", page)
    assert "nan" not in page.lower().split("<body>")[1]


def test_names_and_reasons_are_escaped(timings: Timings, mlp: Exported) -> None:
    hostile = replace(timings, unusable={"decoder, <b>": "<script>alert(1)</script>"})
    page = timings_page(hostile, read_certificate(mlp.artifact.certificate))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_errors_are_read_from_the_certificate(mlp: Exported) -> None:
    document = read_certificate(mlp.artifact.certificate).document
    found = errors(document, "decoder")
    assert set(found) == {"eager/cpu"} | {row["target"] for row in document["rows"] if row["part"] == "decoder"}
    assert all(0 <= error < 1e-5 for error in found.values())


def test_error_of_pytorch_is_that_of_float32(mlp: Exported) -> None:
    document = read_certificate(mlp.artifact.certificate).document
    quantised = [{**row, "target": "onnx+int4-weights/CPU", "eager_error": 0.9} for row in document["rows"]]
    found = errors({"rows": [*document["rows"], *quantised]}, "decoder")
    assert found["eager/cpu"] == errors(document, "decoder")["eager/cpu"]


def test_engines_differ_in_colour_and_precisions_in_dashes() -> None:
    subjects = ["eager/cpu", "onnx/CPUExecutionProvider", "onnx+int8/CPUExecutionProvider", "openvino+bf16/CPU"]
    styles = [LineStyle.of(subject, subjects) for subject in subjects]
    assert [style.colour for style in styles] == [0, 1, 1, 2]
    assert [(style.dash == 0, style.precision) for style in styles] == [
        (True, ""),
        (True, ""),
        (False, "int8"),
        (False, "bf16"),
    ]
    assert styles[1].name == "onnx/CPU"
    many = [f"engine{number}/cpu" for number in range(COLOURS + 1)]
    assert LineStyle.of(many[-1], many).colour == 0, "more engines share the colours of the page"


def test_slower_file_is_not_on_the_pareto_front(timings: Timings) -> None:
    names = ["onnx/CPUExecutionProvider", "torchscript/cpu"]
    results = [
        replace(result, p50_seconds=1e-3 if result.subject == names[0] else 2e-3)
        for result in timings.results
        if result.subject in names
    ]
    subjects = [replace(subject, file_bytes=1000) for subject in timings.subjects if subject.name in names]
    chart = trade_off(
        replace(timings, results=tuple(results), subjects=tuple(subjects)),
        "decoder",
        1,
        names,
        dict.fromkeys(names, 1e-7),
    )
    assert chart is not None
    assert chart.pareto_front == (names[0],)
    assert chart.points[0].x < chart.points[1].x


def test_axis_is_logarithmic() -> None:
    axis = Axis(1, 100, 0, 200)
    assert [axis.place(value) for value in (1, 10, 100)] == [0, 100, 200]
    assert duration(3.75e-5) == "37.5\N{NO-BREAK SPACE}µs"
    assert duration(0.99951) == "1\N{NO-BREAK SPACE}s"
