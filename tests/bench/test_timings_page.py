"""The page of timings shows all results and needs no other file."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.conftest import Exported
from vae_export.artifact.certificate import read_certificate
from vae_export.bench.results import Timings
from vae_export.bench.statistics import Spread
from vae_export.bench.subjects import EAGER
from vae_export.report import timings_page
from vae_export.report.text import distinct_durations, distinct_times, duration
from vae_export.report.timings_charts import COLOURS, Axis, LineStyle, best_of_each_kind, speeds, trade_off
from vae_export.report.timings_page import errors


def test_page_has_every_result_and_loads_nothing(timings: Timings, mlp: Exported) -> None:
    page = timings_page(timings, read_certificate(mlp.artifact.certificate))
    for result in timings.results:
        assert duration(result.p50_seconds) in page
    assert page.count('<svg class="chart speeds" viewBox') == 2, "the best of each kind, and all subjects"
    assert page.count('<svg class="chart errors" viewBox') == 2, "errors at two batch sizes"
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


def scaled(timings: Timings, ratios: dict[str, float], precisions: dict[str, str]) -> Timings:
    """Timings in which the subjects are as fast as given relative to eager, at every batch size."""
    (pattern,) = [subject for subject in timings.subjects if subject.name == "torchscript/cpu"]
    rows = [result for result in timings.results if result.subject == EAGER]
    results = [
        replace(row, subject=name, p50_seconds=row.p50_seconds / ratio, speedup=Spread(ratio, ratio, ratio))
        for name, ratio in ratios.items()
        for row in rows
    ]
    subjects = [replace(pattern, name=name, precision=precisions.get(name)) for name in ratios]  # type: ignore[arg-type]
    return replace(timings, results=(*rows, *results), subjects=tuple(subjects))


FIVE = {"compile/cpu": 1.5, "onnx/CPU": 2.0, "openvino/CPU": 2.5, "onnx+int8/CPU": 3.0, "pt2+fp16/cpu": 0.2}
PRECISIONS_OF_FIVE = {"onnx/CPU": "fp32", "openvino/CPU": "fp32", "onnx+int8/CPU": "int8", "pt2+fp16/cpu": "fp16"}


def test_best_of_each_kind_has_a_line_and_what_is_slower_than_eager_has_none(timings: Timings) -> None:
    found = best_of_each_kind(scaled(timings, FIVE, PRECISIONS_OF_FIVE), "decoder", 1)
    assert found == (["compile/cpu", "openvino/CPU", "onnx+int8/CPU"], ["pt2+fp16/cpu"])


def test_each_kind_of_line_has_its_own_colour_in_every_chart(timings: Timings) -> None:
    found = scaled(timings, FIVE | {"runtime/CPUExecutionProvider": 1.5}, PRECISIONS_OF_FIVE)
    names = ["compile/cpu", "runtime/CPUExecutionProvider", "openvino/CPU", "onnx+int8/CPU", "pt2+fp16/cpu"]
    colours = {line.style.name: line.style.colour for line in speeds(found, "decoder", 1, names, []).lines}
    assert len(set(colours.values())) == len(names)
    for alone in names:
        (line,) = speeds(found, "decoder", 1, [alone], []).lines
        assert line.style.colour == colours[line.style.name], "whatever is drawn beside it"


def test_speed_is_linear_and_labels_do_not_overlap(timings: Timings) -> None:
    chart = speeds(scaled(timings, FIVE, PRECISIONS_OF_FIVE), "decoder", 1, list(FIVE), ["pt2+fp16/cpu"])
    height = {line.style.name: line.points[-1][1] for line in chart.lines}
    first, second, third = (height[name] for name in ("compile/cpu", "onnx/CPU", "openvino/CPU"))
    assert first - second == pytest.approx(second - third, abs=0.2)
    assert chart.one > height["compile/cpu"] > height["onnx+int8/CPU"]
    labels = sorted([*(line.label_y for line in chart.lines), chart.roofline.label_y, chart.one_label])
    assert all(after - before >= 18.9 for before, after in pairwise(labels))
    assert chart.slower == ("pt2+fp16/cpu (0.20× to 0.20×)",)


def test_caption_names_what_was_measured(timings: Timings, mlp: Exported) -> None:
    certificate = read_certificate(mlp.artifact.certificate)
    page = timings_page(scaled(timings, {"onnx/CPU": 2.0}, {"onnx/CPU": "fp32"}), certificate)
    assert "One line for the fastest file of each kind of precision." in page
    page = timings_page(scaled(timings, FIVE, PRECISIONS_OF_FIVE), certificate)
    assert "One line for torch.compile and the fastest file of each kind of precision." in page


def test_neighbours_that_differ_look_different() -> None:
    assert distinct_times([2.08, 1.0004, 1.0, 1.0, 0.0018]) == ["2.08×", "1.0004×", "1.0000×", "1.00×", "0.00180×"]
    assert distinct_durations([None, 218e-6, 218.4e-6]) == ["", "218\N{NO-BREAK SPACE}µs", "218.4\N{NO-BREAK SPACE}µs"]
