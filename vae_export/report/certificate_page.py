"""Thousands of rows as the few that a person reads: the worst of each group, and sums.

The page itself: gathers what it shows and fills the template. It tells no time: equal certificates, equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import TYPE_CHECKING

from jinja2 import Environment, FunctionLoader, StrictUndefined

from vae_export.artifact.manifest import Manifest
from vae_export.contract import EVERY_PART, MAX_LEVEL, Contract
from vae_export.parity.certificate import Certificate
from vae_export.parity.compare import CaseResult
from vae_export.parity.elbo import METRIC
from vae_export.parity.error_maps import ErrorMap
from vae_export.parity.tolerance import FP32_TOLERANCE_FACTOR
from vae_export.precision import FULL
from vae_export.report import certificate_charts, images, text
from vae_export.report.seal import seal

if TYPE_CHECKING:
    from vae_export.report.certificate_charts import Histogram
    from vae_export.report.images import HeatMap, ImageComparison


def _severity(row: CaseResult) -> tuple[bool, float]:
    return not row.passed, row.tolerance_used


@dataclass(frozen=True)
class Group:
    """Rows that share something, such as part, target and output."""

    names: tuple[str, ...]
    rows: tuple[CaseResult, ...]

    @cached_property
    def worst(self) -> CaseResult:
        """A failed row if there is one; of those, the one nearest to its band or furthest beyond."""
        return max(self.rows, key=_severity)

    @cached_property
    def failed(self) -> int:
        return sum(not row.passed for row in self.rows)

    @property
    def shares(self) -> list[float]:
        return [row.tolerance_used for row in self.rows]

    @property
    def differing(self) -> int:
        return sum(row.comparison.grey.differing for row in self.rows if row.comparison.grey is not None)

    @property
    def unexplained(self) -> int:
        return sum(row.comparison.grey.unexplained for row in self.rows if row.comparison.grey is not None)

    @property
    def levels(self) -> int:
        """The largest difference in grey levels."""
        return max((row.comparison.grey.worst for row in self.rows if row.comparison.grey is not None), default=0)

    @property
    def has_grey(self) -> bool:
        return any(row.comparison.grey is not None for row in self.rows)


def grouped(rows: Iterable[CaseResult], key: Callable[[CaseResult], tuple[str, ...]]) -> list[Group]:
    """In the order in which each group first appears."""
    found: dict[tuple[str, ...], list[CaseResult]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return [Group(names, tuple(members)) for names, members in found.items()]


@dataclass(frozen=True)
class Summary:
    """What the page says in large print."""

    certificate: Certificate
    contract: Contract

    @cached_property
    def all(self) -> Group | None:
        return Group((), self.certificate.results) if self.certificate.results else None

    @cached_property
    def results(self) -> list[Group]:
        return grouped(self.certificate.results, lambda row: (row.part, row.target, row.output))

    @cached_property
    def failures(self) -> list[Group]:
        return [group for group in self.results if group.failed]

    @cached_property
    def probes(self) -> list[Group]:
        return grouped((row for row in self.certificate.results if row.part != METRIC), lambda row: (row.probe,))

    @cached_property
    def metrics(self) -> list[CaseResult]:
        return [row for row in self.certificate.results if row.part == METRIC]

    @cached_property
    def images(self) -> list[Group]:
        """The groups whose output is an image."""
        return [group for group in self.results if group.has_grey]

    @property
    def targets(self) -> list[Group]:
        return grouped(self.certificate.results, lambda row: (row.target,))

    @property
    def passed(self) -> int:
        return len(self.certificate.results) - len(self.certificate.failures)

    @property
    def missing(self) -> int:
        """Rows that were planned and never made; negative if there are more than planned, which is no pass either."""
        return self.certificate.planned - len(self.certificate.results)

    @property
    def nats(self) -> CaseResult | None:
        """The metric row that is furthest from PyTorch."""
        measured = [row for row in self.metrics if row.comparison.fault is None and row.comparison.max_abs is not None]
        return max(measured, key=lambda row: row.comparison.max_abs or 0.0, default=None)

    @property
    def is_measured_band(self) -> bool:
        """Whether every band is float32's measured one: not where the user gave one, or fewer bits have a coarser."""
        return not any(
            row.limits.user_tolerance is not None or row.setting.tf32 or row.limits.precision != FULL
            for row in self.certificate.results
        )

    @property
    def has_tolerance(self) -> bool:
        return any(row.limits.user_tolerance is not None for row in self.certificate.results)

    def numbers(self, rows: Iterable[CaseResult], *, grey: bool = False) -> int:
        """How many single numbers were compared; `grey`: those that are pixels."""
        return sum(
            row.batch * self._item(row.part, row.output)
            for row in rows
            if row.comparison.fault is None and (not grey or row.comparison.grey is not None)
        )

    def _item(self, part: str, output: str) -> int:
        for known in EVERY_PART:
            if known == part:
                sizes = {tensor.name: math.prod(tensor.item) for tensor in self.contract.spec(known).outputs}
                return sizes.get(output, 1)
        return 1


TEMPLATE = "certificate.html.j2"


@dataclass(frozen=True)
class File:
    """One file as the page lists it; `state` is "verified", "not run here", or "another file was run"."""

    name: str
    part: str
    format: str
    size: str
    sha256: str
    state: str


@dataclass(frozen=True)
class View:
    """The pictures of one target's decoder."""

    target: str
    heat_map: HeatMap
    histogram: Histogram
    comparison: ImageComparison

    @classmethod
    def of(cls, target: str, evidence: ErrorMap, contract: Contract) -> View:
        return cls(
            target,
            images.heat_map(evidence.pixel_error, contract.image_range),
            certificate_charts.histogram(evidence, contract.image_range),
            images.comparison(evidence, contract.image_range),
        )


def certificate_page(certificate: Certificate, manifest: Manifest) -> str:
    """One HTML page that needs no other file, no network and no script.

    Args:
        certificate: passed or failed, with or without evidence.
        manifest: of the artifact that was verified.
    """
    contract = manifest.contract
    first = next(iter(certificate.error_maps.values()), None)
    template = environment().get_template(TEMPLATE)
    return template.render(
        certificate=certificate,
        manifest=manifest,
        contract=contract,
        summary=Summary(certificate, contract),
        files=_files(certificate, manifest),
        provenance=list(text.flat(manifest.provenance)),
        surroundings=list(text.flat(certificate.environment)),
        written=list(text.flat(manifest.versions)),
        views=[View.of(target, evidence, contract) for target, evidence in certificate.error_maps.items()],
        originals=None if first is None else images.image_row(first.originals, contract.image_range),
        pytorch=None if first is None else images.image_row(first.pytorch, contract.image_range),
        shown=0 if first is None else len(first.originals),
        noise=str(certificate.environment.get("images", "")).startswith("uniform noise"),
        colours=", ".join(f"rgb{colour}" for colour in images.COLOURS),
        seal=seal(certificate.files),
        factor=FP32_TOLERANCE_FACTOR,
        level=(contract.image_range[1] - contract.image_range[0]) / MAX_LEVEL,
        charts=certificate_charts,
        words=text,
    )


def _files(certificate: Certificate, manifest: Manifest) -> list[File]:
    files = []
    pairs = [(entry, stored) for entry in manifest.files for stored in entry.stored]
    for entry, stored in pairs:
        ran = certificate.files.get(stored.name)
        state = "not run here" if ran is None else "verified" if ran == stored.sha256 else "another file was run"
        files.append(File(stored.name, entry.part, entry.format, text.size(stored.size), stored.sha256, state))
    listed = {file.name for file in files}
    files += [
        File(name, text.MISSING, text.MISSING, text.MISSING, sha256, "run, not in the manifest")
        for name, sha256 in certificate.files.items()
        if name not in listed
    ]
    return files


def environment() -> Environment:
    """Everything that is filled in is escaped: names and messages come out of files of unknown origin."""
    environment = Environment(
        loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        name: getattr(text, name)
        for name in ("number", "times", "percent", "many", "counted", "listed", "duration", "size")
    }
    return environment


def _source(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")
