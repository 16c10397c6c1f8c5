"""What can be tried: a certified file, where it runs, and how it is opened; and what the certificate says it costs.

No file is run here, and no figure is measured: pixels and nats are those that were proved.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vae_export.artifact.certificate import StoredCertificate
from vae_export.artifact.manifest import FileEntry, Manifest
from vae_export.contract import Part
from vae_export.errors import UsageError
from vae_export.parity import Degradation
from vae_export.parity.probes import TYPICAL_PROBES
from vae_export.parity.targets import Target, choose_targets
from vae_export.precision import PRECISIONS
from vae_export.session_options import CPU, OPTIMISATION_LEVELS, RUNTIME_FORMAT, SWITCHES, SessionOptions

#: Rows of a certificate that are of encoder and decoder together.
_METRIC = "metric"


@dataclass(frozen=True)
class Candidate:
    """Attributes:
    entry: the file.
    target: its format, with a provider.
    options: how it is opened.
    cost: of the file on this target: worst grey level of the decoder's images, nats of encoder and decoder together.
    """

    entry: FileEntry
    target: Target
    options: SessionOptions
    cost: Degradation

    def __str__(self) -> str:
        return f"{self.target}, {self.options.details}"

    @property
    def is_followed(self) -> bool:
        """Whether the runtime can run it, so that it can be recommended."""
        return self.target.format == RUNTIME_FORMAT

    @property
    def plainness(self) -> tuple[float, int, int, int]:
        """Of two that are as quick the lower one is better: fewer levels, more bits, fewer settings, fewer threads."""
        how = self.options
        is_default = how.optimisation == OPTIMISATION_LEVELS[-1]
        departures = (how.threads is not None) + (not is_default) + len(how.switches)
        levels = float("inf") if self.cost.worst_levels is None else self.cost.worst_levels
        return levels, PRECISIONS.index(self.target.precision), departures, how.threads or 0

    def variants(self, levels: Sequence[str | None]) -> Iterator[Candidate]:
        """The same with one of its session's options changed; `levels` are those it was verified at."""
        for level in levels:
            if level != self.options.optimisation:
                yield replace(self, options=replace(self.options, optimisation=level))
        for switch in SWITCHES:
            if switch != "no-spinning" or self.options.threads != 1:  # one thread has nobody to spin
                yield replace(self, options=replace(self.options, switches=(switch,)))


def candidates(manifest: Manifest, record: StoredCertificate, part: Part) -> list[Candidate]:
    """Every file of a part on every provider that it was verified on, with each number of threads.

    Raises `UsageError` for a part that was not exported.
    """
    entries = [entry for entry in manifest.known if entry.part == part]
    if not entries:
        have = dict.fromkeys(entry.part for entry in manifest.known)
        raise UsageError("export has no such part", where=part, expected=" | ".join(have))
    kinds = {(entry.format, entry.precision): entry for entry in entries}
    cores = os.cpu_count() or 1
    counts = sorted({1, min(2, cores), cores})
    found = []
    for target in choose_targets(list(kinds), None):
        if target.tf32 or not verified_levels(record, part, target):
            continue
        plain = target.session_options(thorough=False)[0]
        # On a GPU it is the device that computes; ONNX Runtime's own choice is what its users have without a word.
        of_target: list[int | None] = [*counts] if not target.is_gpu else [plain.threads]
        if (target.format, target.provider) == (RUNTIME_FORMAT, CPU):
            of_target = [None, *of_target]
        entry, price = kinds[target.format, target.precision], degradation_of(record, part, target)
        found += [Candidate(entry, target, replace(plain, threads=count), price) for count in of_target]
    return found


def verified_levels(record: StoredCertificate, part: Part, target: Target) -> list[str | None]:
    """The optimisation levels that a part was verified at on a target. An engine without any has None."""
    settings = [
        row["setting"] for row in record.document["rows"] if (row["part"], row["target"]) == (part, str(target))
    ]
    stated = {setting.split(",")[0] for setting in settings}
    return [level for level in OPTIMISATION_LEVELS if level in stated] or ([None] if settings else [])


def degradation_of(record: StoredCertificate, part: Part, target: Target) -> Degradation:
    """What the certificate says of a target: its drift, or for float32 files, which have none, what its rows say.

    Encoder and decoder have one cost in common: the nats are of both. An autoencoder has its own, and in float32 none
    in nats: its rows are of its outputs alone.
    """
    whole: Part = "autoencoder" if part == "autoencoder" else "decoder"
    for drift in record.document["drift"]:
        if (drift["part"], drift["target"]) == (whole, str(target)):
            return _checked(Degradation(**drift))
    rows = [row for row in record.document["rows"] if row["target"] == str(target)]
    pixels = [row["grey"]["worst"] for row in rows if _is_ordinary_image(row, whole)]
    # The image that is worst off: the mean, which a budget is about, is no more.
    metric = [row for row in rows if (row["part"], row["output"]) == (_METRIC, "negative_elbo")]
    nats = [row["error"] for row in metric if whole == "decoder"]
    found = Degradation(
        str(target), worst_levels=max(pixels, default=None), nats_high=max(nats, default=None), part=whole
    )
    return _checked(found)


def _checked(found: Degradation) -> Degradation:
    """Raise `TypeError` unless what a budget is held against are numbers: they come out of a file."""
    for figure in (found.worst_levels, found.nats_high):
        if not isinstance(figure, int | float | None):
            raise TypeError(f"a cost is {figure!r}")
    return found


def _is_ordinary_image(row: Mapping[str, Any], part: Part) -> bool:
    return row["part"] == part and row["grey"] is not None and row["probe"] in TYPICAL_PROBES
