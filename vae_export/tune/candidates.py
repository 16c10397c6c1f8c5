"""List the candidates of `tune`: certified files with a provider, session options and their degradation.

No file is run. The degradation in pixels and nats comes from the certificate.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vae_export.artifact.certificate import METRIC, TYPICAL_PROBES, StoredCertificate
from vae_export.artifact.manifest import FileEntry, Manifest
from vae_export.contract import Part
from vae_export.errors import UsageError
from vae_export.parity import Degradation
from vae_export.parity.targets import Target, choose_targets
from vae_export.precision import PRECISIONS
from vae_export.session_options import CPU, OPTIMISATION_LEVELS, RUNTIME_FORMAT, SWITCHES, SessionOptions


@dataclass(frozen=True)
class Candidate:
    """A certified file with a provider and session options.

    Attributes:
        entry: the file.
        target: the format and precision of the file, and a provider.
        options: the session options.
        cost: degradation of the file on this target: the worst grey level of the decoder's images, and the nats of
            encoder and decoder together.
    """

    entry: FileEntry
    target: Target
    options: SessionOptions
    cost: Degradation

    def __str__(self) -> str:
        return f"{self.target}, {self.options.details}"

    @property
    def runs_in_runtime(self) -> bool:
        """Whether `vae_export.load` can run this candidate, so that it can be recommended."""
        return self.target.format == RUNTIME_FORMAT

    @property
    def preference(self) -> tuple[float, int, int, int]:
        """A sort key for ties: fewer grey levels come first, then more bits, fewer changed options, fewer threads."""
        options = self.options
        is_optimised = options.optimisation == OPTIMISATION_LEVELS[-1]
        changed = (options.threads is not None) + (not is_optimised) + len(options.switches)
        levels = float("inf") if self.cost.worst_levels is None else self.cost.worst_levels
        return levels, PRECISIONS.index(self.target.precision), changed, options.threads or 0

    def variants(self, levels: Sequence[str | None]) -> Iterator[Candidate]:
        """Yield this candidate with one session option changed; `levels` are its verified optimisation levels."""
        for level in levels:
            if level != self.options.optimisation:
                yield replace(self, options=replace(self.options, optimisation=level))
        for switch in SWITCHES:
            if switch != "no-spinning" or self.options.threads != 1:  # a single thread does not spin
                yield replace(self, options=replace(self.options, switches=(switch,)))


def candidates(manifest: Manifest, certificate: StoredCertificate, part: Part) -> list[Candidate]:
    """Return every file of a part on every provider that it was verified on, with each number of threads.

    Args:
        manifest: the manifest of the export.
        certificate: the certificate of the export.
        part: the part of the model.

    Returns:
        The candidates.

    Raises:
        UsageError: the export has no such part.
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
        if target.tf32 or not verified_levels(certificate, part, target):
            continue
        plain = target.session_options(thorough=False)[0]
        # A GPU does not use CPU threads. On the CPU, ONNX Runtime's own choice is the default of the runtime.
        thread_counts: list[int | None] = [*counts] if not target.is_gpu else [plain.threads]
        if (target.format, target.provider) == (RUNTIME_FORMAT, CPU):
            thread_counts = [None, *thread_counts]
        entry, cost = kinds[target.format, target.precision], degradation_of(certificate, part, target)
        found += [Candidate(entry, target, replace(plain, threads=count), cost) for count in thread_counts]
    return found


def verified_levels(certificate: StoredCertificate, part: Part, target: Target) -> list[str | None]:
    """Return the optimisation levels at which a part was verified on a target.

    Args:
        certificate: the certificate of the export.
        part: the part of the model.
        target: the format, precision and provider.

    Returns:
        The levels; [None] if the engine has none; nothing if the part was not verified on the target.
    """
    settings = [
        row["setting"] for row in certificate.document["rows"] if (row["part"], row["target"]) == (part, str(target))
    ]
    stated = {setting.split(",")[0] for setting in settings}
    return [level for level in OPTIMISATION_LEVELS if level in stated] or ([None] if settings else [])


def degradation_of(certificate: StoredCertificate, part: Part, target: Target) -> Degradation:
    """Return the degradation that a certificate states for a target.

    Encoder and decoder share one degradation, because nats depend on both. The certificate states none for float32
    files, so theirs is taken from the test cases. An autoencoder in float32 has no nats, because its test cases compare
    only outputs.

    Args:
        certificate: the certificate.
        part: the part of the model.
        target: the format, precision and provider.

    Returns:
        The degradation, in grey levels and nats.

    Raises:
        KeyError, TypeError: the certificate is damaged.
    """
    whole: Part = "autoencoder" if part == "autoencoder" else "decoder"
    for entry in certificate.document["drift"]:
        if (entry["part"], entry["target"]) == (whole, str(target)):
            return _checked(Degradation(**entry))
    rows = [row for row in certificate.document["rows"] if row["target"] == str(target)]
    pixels = [row["grey"]["worst"] for row in rows if _is_typical_image(row, whole)]
    # This is the error of the worst image. The mean error, to which a budget applies, is not larger.
    metric = [row for row in rows if (row["part"], row["output"]) == (METRIC, "negative_elbo")]
    nats = [row["error"] for row in metric if whole == "decoder"]
    found = Degradation(
        str(target), worst_levels=max(pixels, default=None), nats_high=max(nats, default=None), part=whole
    )
    return _checked(found)


def _checked(found: Degradation) -> Degradation:
    """Return the degradation, or raise `TypeError` if its figures, which come from a file, are not numbers."""
    for figure in (found.worst_levels, found.nats_high):
        if not isinstance(figure, int | float | None):
            raise TypeError(f"a degradation is {figure!r}")
    return found


def _is_typical_image(row: Mapping[str, Any], part: Part) -> bool:
    return row["part"] == part and row["grey"] is not None and row["probe"] in TYPICAL_PROBES
