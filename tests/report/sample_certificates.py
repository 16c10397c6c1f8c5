"""Certificates made without a verification, and a parser for their pages."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np

from vae_export.artifact.manifest import FileContent, FileEntry, Manifest
from vae_export.contract import Contract, Part
from vae_export.parity.certificate import Certificate, Determinism, EngineVersion
from vae_export.parity.compare import CaseResult, Comparison
from vae_export.parity.error_maps import ErrorMap, ErrorMapBuilder, ImageErrors
from vae_export.parity.reproduction import Reproduction
from vae_export.parity.tolerance import ErrorLimits
from vae_export.pixels import GreyLevels
from vae_export.report import certificate_page
from vae_export.session_options import SessionOptions

GREY = Contract((1, 12, 12), (4,))
COLOUR = Contract((3, 16, 16), (4, 2, 2), (-1.0, 1.0))
ONNX, TORCH = "onnx/CPUExecutionProvider", "torchscript/cpu"
UNIT = 1e-7


def result(
    part: str = "decoder", output: str = "image", *, ratio: float = 1.5, target: str = ONNX, **changes: object
) -> CaseResult:
    error = ratio * UNIT
    grey = GreyLevels(3, 0, 1) if output == "image" else None
    measure = Comparison(error / 2, error / 9, (0, 0, 1, 2), error, ratio, grey, mean_error=error / 8)
    whole = CaseResult(
        part,
        target,
        SessionOptions(threads=1, optimisation="all"),
        "prior",
        3,
        output,
        measure,
        ErrorLimits(UNIT, UNIT / 2, 0.5),
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def error_map(contract: Contract = GREY, *, off: float = 1e-7) -> ErrorMap:
    rng = np.random.default_rng(0)
    low, high = contract.data_range or (-3, 3)
    exact = rng.uniform(low, high, (20, *contract.at().output.fixed_item))
    eager = exact.astype(np.float32)
    decoded = (eager + off * rng.uniform(-1, 1, exact.shape)).astype(np.float32) if off else eager
    builder = ErrorMapBuilder()
    builder.add(decoded, eager, exact)
    if contract.is_image:
        builder.show(eager, eager, decoded)
    built = builder.build()
    assert built is not None
    return built


def image_errors(contract: Contract = GREY, *, off: float = 1e-7) -> ImageErrors:
    errors = error_map(contract, off=off).images
    assert errors is not None
    return errors


def manifest(contract: Contract = GREY, names: tuple[str, ...] = ("encoder.onnx", "decoder.onnx")) -> Manifest:
    parts: tuple[Part, ...] = ("encoder", "decoder")
    files = tuple(
        FileEntry.of(name, part, "onnx", FileContent(name.encode())) for name, part in zip(names, parts, strict=True)
    )
    return Manifest(contract, files, 20, {"torch": "2.99.0"}, {"data": {"name": "somebody's", "seed": 7}})


def certificate(results: tuple[CaseResult, ...] | None = None, **changes: object) -> Certificate:
    if results is None:
        results = (
            result("encoder", "mean", ratio=0.25),
            result(),
            result(ratio=2.625, probe="six-sigma"),
            result(target=TORCH, ratio=1.0),
            result("metric", "negative_elbo", probe="data", batch=64),
        )
    whole = Certificate(
        files={entry.name: entry.sha256 for entry in manifest().files},
        planned=len(results),
        results=results,
        determinism=(Determinism("decoder", ONNX, True, False),),
        engines={ONNX: EngineVersion("onnxruntime", "1.99.0"), TORCH: EngineVersion("torch", "2.99.0")},
        reproductions=(Reproduction("encoder.onnx", "reproduced"), Reproduction("decoder.onnx", "reproduced")),
        environment={"versions": {"torch": "2.99.0", "onnxruntime": "1.99.0"}, "gpu": None, "images": "real"},
        error_maps={ONNX: error_map(), TORCH: error_map(off=0.0)},
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


class Reader(HTMLParser):
    """A parser that collects elements with their attributes, visible text and elements left open."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.pieces: list[str] = []
        self.feed(page)
        self.text = " ".join("".join(self.pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.pieces.append(data)


def read(whole: Certificate, described: Manifest | None = None) -> Reader:
    return Reader(certificate_page(whole, described or manifest()))
