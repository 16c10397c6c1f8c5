"""Make the HTML page of a certificate: summarise thousands of results, and fill the template.

The page contains no timestamp, so that equal certificates give equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import TYPE_CHECKING

from jinja2 import Environment, FunctionLoader, StrictUndefined

from vae_export.artifact.certificate import METRIC
from vae_export.artifact.manifest import Manifest
from vae_export.contract import EVERY_PART, MAX_LEVEL, Contract
from vae_export.parity.certificate import REFERENCE, Certificate
from vae_export.parity.compare import CaseResult
from vae_export.parity.error_maps import ErrorMap, ImageErrors
from vae_export.parity.plan import DRAWN_BATCHES
from vae_export.parity.tolerance import FP32_TOLERANCE_FACTOR
from vae_export.precision import FULL
from vae_export.report import certificate_charts, images, text

if TYPE_CHECKING:
    from vae_export.report.certificate_charts import Histogram
    from vae_export.report.images import HeatMap, ImageComparison, Picture


def _severity(result: CaseResult) -> tuple[bool, float]:
    return not result.passed, result.tolerance_used


@dataclass(frozen=True)
class Group:
    """Results with a common key, such as part, target and output."""

    names: tuple[str, ...]
    results: tuple[CaseResult, ...]

    @cached_property
    def worst(self) -> CaseResult:
        """The result that uses the largest share of its tolerance; a failed one if there is any."""
        return max(self.results, key=_severity)

    @cached_property
    def failed(self) -> int:
        """The number of results that failed."""
        return sum(not result.passed for result in self.results)

    @property
    def shares(self) -> list[float]:
        """The share of its tolerance that each result uses; 1 or less passes."""
        return [result.tolerance_used for result in self.results]

    @property
    def differing(self) -> int:
        """The number of pixels with another grey level than PyTorch's float64 image."""
        return sum(result.comparison.grey.differing for result in self.results if result.comparison.grey is not None)

    @property
    def unexplained(self) -> int:
        """The number of pixels whose other grey level the tolerance does not explain."""
        return sum(result.comparison.grey.unexplained for result in self.results if result.comparison.grey is not None)

    @property
    def levels(self) -> int:
        """The largest difference in grey levels."""
        return max(
            (result.comparison.grey.worst for result in self.results if result.comparison.grey is not None), default=0
        )

    @property
    def has_grey(self) -> bool:
        """Whether any of the results compares images."""
        return any(result.comparison.grey is not None for result in self.results)


def grouped(results: Iterable[CaseResult], key: Callable[[CaseResult], tuple[str, ...]]) -> list[Group]:
    """Return the results in groups of equal keys, in the order in which each key first appears."""
    found: dict[tuple[str, ...], list[CaseResult]] = {}
    for result in results:
        found.setdefault(key(result), []).append(result)
    return [Group(names, tuple(members)) for names, members in found.items()]


@dataclass(frozen=True)
class Summary:
    """The totals and worst cases of a certificate."""

    certificate: Certificate
    contract: Contract

    @cached_property
    def all(self) -> Group | None:
        """All results as one group, or None if there are none."""
        return Group((), self.certificate.results) if self.certificate.results else None

    @cached_property
    def by_output(self) -> list[Group]:
        """The results in groups by part, target and output."""
        return grouped(self.certificate.results, lambda result: (result.part, result.target, result.output))

    @cached_property
    def failed_outputs(self) -> list[Group]:
        """The groups by output with a failed result."""
        return [group for group in self.by_output if group.failed]

    @cached_property
    def by_probe(self) -> list[Group]:
        """The results in groups by probe, without those of the metrics."""
        return grouped(
            (result for result in self.certificate.results if result.part != METRIC), lambda result: (result.probe,)
        )

    @property
    def fixed_probes(self) -> list[str]:
        """The names of the probes, without the test cases at drawn batch sizes."""
        return [name for group in self.by_probe for name in group.names if name != DRAWN_BATCHES]

    @property
    def batches(self) -> list[int]:
        """The batch sizes of the probes, in ascending order."""
        return self._batch_sizes(drawn=False)

    @property
    def drawn_batches(self) -> list[int]:
        """The batch sizes that were drawn for the files, in ascending order."""
        return self._batch_sizes(drawn=True)

    def _batch_sizes(self, *, drawn: bool) -> list[int]:
        groups = [group for group in self.by_probe if (DRAWN_BATCHES in group.names) == drawn]
        return sorted({result.batch for group in groups for result in group.results})

    @cached_property
    def metrics(self) -> list[CaseResult]:
        """The results in nats."""
        return [result for result in self.certificate.results if result.part == METRIC]

    @cached_property
    def image_outputs(self) -> list[Group]:
        """The groups whose output is an image."""
        return [group for group in self.by_output if group.has_grey]

    @property
    def by_target(self) -> list[Group]:
        """The results in groups by target."""
        return grouped(self.certificate.results, lambda result: (result.target,))

    @property
    def passed(self) -> int:
        """The number of results that passed."""
        return len(self.certificate.results) - len(self.certificate.failures)

    @property
    def missing(self) -> int:
        """The number of planned results that are missing; negative, and also a failure, if there are too many."""
        return self.certificate.planned - len(self.certificate.results)

    @property
    def worst_metric(self) -> CaseResult | None:
        """The result in nats that is furthest from PyTorch."""
        measured = [
            result
            for result in self.metrics
            if result.comparison.fault is None and result.comparison.max_abs is not None
        ]
        return max(measured, key=lambda result: result.comparison.max_abs or 0.0, default=None)

    @property
    def is_measured_tolerance(self) -> bool:
        """Whether every tolerance is measured for float32, without a user tolerance, TF32 or lower precision."""
        return not any(
            result.limits.user_tolerance is not None or result.options.tf32 or result.limits.precision != FULL
            for result in self.certificate.results
        )

    @property
    def has_tolerance(self) -> bool:
        """Whether the user replaced the measured tolerance of any result."""
        return any(result.limits.user_tolerance is not None for result in self.certificate.results)

    def numbers(self, results: Iterable[CaseResult], *, grey: bool = False) -> int:
        """Return how many numbers were compared; with `grey`, only pixels are counted."""
        return sum(
            result.batch * self._items(result.part, result.sizes).get(result.output, 1)
            for result in results
            if result.comparison.fault is None and (not grey or result.comparison.grey is not None)
        )

    def _items(self, part: str, sizes: tuple[tuple[str, int], ...]) -> dict[str, int]:
        """Return how many numbers a row of each output of a part has, at these values of open sizes."""
        if (part, sizes) not in self._cached_items:
            outputs = self.contract.at(dict(sizes)).spec(part).outputs if part in EVERY_PART else ()  # a metric has one
            self._cached_items[part, sizes] = {tensor.name: math.prod(tensor.fixed_item) for tensor in outputs}
        return self._cached_items[part, sizes]

    @cached_property
    def _cached_items(self) -> dict[tuple[str, tuple[tuple[str, int], ...]], dict[str, int]]:
        return {}


#: A description of each name that a test case may have as its probe.
_PROBES = text.PROBES | {DRAWN_BATCHES: "Rows of noise, in batch sizes that are drawn from the hash of each file."}

TEMPLATE = "certificate.html.j2"


@dataclass(frozen=True)
class File:
    """One file as the page lists it.

    `state` is "verified", "not run here", or "another file was run"; `reproduction` is that of
    `vae_export.parity.reproduction`, and `is_proof` says whether nothing in the file can have been changed.
    """

    name: str
    part: str
    format: str
    size: str
    sha256: str
    state: str
    reproduction: str = text.MISSING
    is_proof: bool = False


@dataclass(frozen=True)
class View:
    """The charts of one target's decoder, and the pictures if its data can be shown."""

    target: str
    histogram: Histogram
    worst: float
    pictures: Pictures | None

    @classmethod
    def of(cls, target: str, error_map: ErrorMap, contract: Contract) -> View:
        """Draw a target's error map, with pixels in the contract's range."""
        shown = pixel_range(contract)
        pictures = None if error_map.images is None or shown is None else Pictures.of(error_map.images, shown)
        histogram = certificate_charts.histogram(error_map, None if shown is None else grey_level(shown))
        return cls(target, histogram, error_map.worst, pictures)


@dataclass(frozen=True)
class Pictures:
    """The pictures of one target's decoder."""

    heat_map: HeatMap
    comparison: ImageComparison
    originals: Picture
    pytorch: Picture
    count: int

    @classmethod
    def of(cls, errors: ImageErrors, image_range: tuple[float, float]) -> Pictures:
        """Draw images whose pixels are in the range."""
        return cls(
            images.heat_map(errors.pixel_error, image_range),
            images.comparison(errors, image_range),
            images.image_row(errors.originals, image_range),
            images.image_row(errors.pytorch, image_range),
            len(errors.originals),
        )


def pixel_range(contract: Contract) -> tuple[float, float] | None:
    """Return the lowest and the highest value of a pixel, or None if the decoder gives no images in a range.

    A decoder that may leave the range of the data is shown within it.
    """
    output = contract.output
    if len(output.item) != 3:
        return None
    return (output.low, output.high) if output.is_bounded else contract.data_range if contract.gives_data else None


def grey_level(image_range: tuple[float, float]) -> float:
    """Return the size of one grey level of pixels in this range."""
    return (image_range[1] - image_range[0]) / MAX_LEVEL


def certificate_page(certificate: Certificate, manifest: Manifest) -> str:
    """Return the HTML page of a certificate; it needs no other file, no network and no script.

    Args:
        certificate: a certificate that passed or failed, with or without error maps.
        manifest: manifest of the export that was verified.

    Returns:
        The page.
    """
    contract = manifest.contract
    pixels = pixel_range(contract)
    views = [View.of(target, error_map, contract) for target, error_map in certificate.error_maps.items()]
    template = jinja_environment().get_template(TEMPLATE)
    return template.render(
        certificate=certificate,
        manifest=manifest,
        contract=contract,
        tensors=contract.tensors,
        summary=Summary(certificate, contract),
        files=_files(certificate, manifest),
        unlike=[item for item in certificate.reproductions if not item.is_proof],
        reference=REFERENCE,
        provenance=list(text.flat(manifest.provenance)),
        surroundings=list(text.flat(certificate.environment)),
        written=list(text.flat(manifest.versions)),
        views=views,
        shown=next((view.pictures for view in views if view.pictures is not None), None),
        not_shown=why_not_shown(contract),
        noise="noise, since" in str(certificate.environment.get("images", "")),
        colours=", ".join(f"rgb{colour}" for colour in images.COLOURS),
        factor=FP32_TOLERANCE_FACTOR,
        pixels=pixels,
        level=None if pixels is None else grey_level(pixels),
        charts=certificate_charts,
        text=text,
        probes=_PROBES,
    )


def why_not_shown(contract: Contract) -> str | None:
    """Return why the data cannot be shown as images, or None if it can."""
    if contract.is_image:
        return None
    channels = contract.output.item[0]
    if contract.output.name == "image" and contract.data_range is not None:
        return f"the images have {channels} channels"
    return f"the decoder gives no images in a range, but {contract.output}"


def _files(certificate: Certificate, manifest: Manifest) -> list[File]:
    files = []
    reproduced = {item.file: item for item in certificate.reproductions}
    pairs = [(entry, stored) for entry in manifest.files for stored in entry.stored]
    for entry, stored in pairs:
        ran = certificate.files.get(stored.name)
        state = "not run here" if ran is None else "verified" if ran == stored.sha256 else "another file was run"
        found = reproduced.get(entry.name)
        proof = (text.MISSING, False) if found is None else (found.state, found.is_proof)
        files.append(File(stored.name, entry.part, entry.format, text.size(stored.size), stored.sha256, state, *proof))
    listed = {file.name for file in files}
    files += [
        File(name, text.MISSING, text.MISSING, text.MISSING, sha256, "run, not in the manifest")
        for name, sha256 in certificate.files.items()
        if name not in listed
    ]
    return files


def jinja_environment() -> Environment:
    """Return a Jinja environment that escapes all values, since names and messages come from untrusted files."""
    environment = Environment(
        loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        name: getattr(text, name)
        for name in ("number", "times", "percent", "many", "counted", "listed", "duration", "size")
    }
    environment.filters["shape"] = text.shape
    return environment


def _source(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")
