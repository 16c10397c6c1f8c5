"""The page itself: gathers what it shows and fills the template. It tells no time: equal certificates, equal bytes."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from jinja2 import Environment, FunctionLoader, StrictUndefined

from vae_export.contract import LEVELS, Contract
from vae_export.manifest import Manifest
from vae_export.parity.certificate import Certificate
from vae_export.parity.evidence import Evidence
from vae_export.parity.measure import FACTOR
from vae_export.report import charts, pictures, words
from vae_export.report.seal import seal
from vae_export.report.summary import Summary

if TYPE_CHECKING:
    from vae_export.report.charts import Histogram
    from vae_export.report.pictures import Comparison, HeatMap

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
    comparison: Comparison

    @classmethod
    def of(cls, target: str, evidence: Evidence, contract: Contract) -> View:
        return cls(
            target,
            pictures.heat_map(evidence.pixel_error, contract.image_range),
            charts.histogram(evidence, contract.image_range),
            pictures.comparison(evidence, contract.image_range),
        )


def certificate_page(certificate: Certificate, manifest: Manifest) -> str:
    """One HTML page that needs no other file, no network and no script.

    Args:
        certificate: passed or failed, with or without evidence.
        manifest: of the artifact that was verified.
    """
    contract = manifest.contract
    first = next(iter(certificate.evidence.values()), None)
    template = environment().get_template(TEMPLATE)
    return template.render(
        certificate=certificate,
        manifest=manifest,
        contract=contract,
        summary=Summary(certificate, contract),
        files=_files(certificate, manifest),
        provenance=list(words.flat(manifest.provenance)),
        surroundings=list(words.flat(certificate.environment)),
        written=list(words.flat(manifest.versions)),
        views=[View.of(target, evidence, contract) for target, evidence in certificate.evidence.items()],
        originals=None if first is None else pictures.image_row(first.originals, contract.image_range),
        pytorch=None if first is None else pictures.image_row(first.pytorch, contract.image_range),
        shown=0 if first is None else len(first.originals),
        noise=str(certificate.environment.get("images", "")).startswith("uniform noise"),
        colours=", ".join(f"rgb{colour}" for colour in pictures.COLOURS),
        seal=seal(certificate.files),
        factor=FACTOR,
        level=(contract.image_range[1] - contract.image_range[0]) / LEVELS,
        charts=charts,
        words=words,
    )


def _files(certificate: Certificate, manifest: Manifest) -> list[File]:
    files = []
    pairs = [(entry, stored) for entry in manifest.files for stored in entry.stored]
    for entry, stored in pairs:
        ran = certificate.files.get(stored.name)
        state = "not run here" if ran is None else "verified" if ran == stored.sha256 else "another file was run"
        files.append(File(stored.name, entry.part, entry.format, words.size(stored.size), stored.sha256, state))
    listed = {file.name for file in files}
    files += [
        File(name, words.MISSING, words.MISSING, words.MISSING, sha256, "run, not in the manifest")
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
        name: getattr(words, name)
        for name in ("number", "times", "percent", "many", "counted", "listed", "duration", "size")
    }
    return environment


def _source(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")
