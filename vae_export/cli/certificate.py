"""A certificate on a terminal: a table, what was found, what was left out, the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from vae_export.cli import console

if TYPE_CHECKING:
    from vae_export.parity import Certificate, Row


def show(certificate: Certificate, written: Path) -> None:
    """Everything but the verdict; `written` is where the certificate lies."""
    console.result(_table(certificate))
    for finding in certificate.findings:
        console.result(finding.line())
    for name, divergence in certificate.divergences.items():
        console.result(f"{name}: {divergence.line()}")
    show_drift(certificate)
    show_gaps(certificate)
    console.result(f"certificate: {written}, as a page {written.with_suffix('.html').name}")


def show_drift(certificate: Certificate) -> None:
    """What files of lower precision cost, in pixels and nats."""
    if not certificate.drifts:
        return
    table = Table(
        "part",
        "target",
        "worst, levels",
        "mean, levels",
        "PSNR",
        "−ELBO, 95 %",
        "Fréchet",
        "of samples",
        box=None,
        pad_edge=False,
    )
    for drift in certificate.drifts:
        interval = (
            None if drift.nats is None else f"{drift.nats:+z.3f} ({drift.nats_low:+z.3f} to {drift.nats_high:+z.3f})"
        )
        table.add_row(
            drift.part,
            drift.target,
            _or_dash(drift.worst_levels, "{}"),
            _or_dash(drift.mean_levels, "{:.3f}"),
            _or_dash(drift.psnr, "{:.1f} dB"),
            interval or "-",
            _or_dash(drift.frechet, "{:.2g}"),
            _or_dash(drift.frechet_of_samples, "{:.2g}"),
        )
    console.result(table)
    for line in certificate.excesses:
        console.result(f"budget missed: {line}")


def _or_dash(figure: float | None, form: str) -> str:
    return "-" if figure is None else form.format(figure)


def show_gaps(certificate: Certificate) -> None:
    """What was not verified: a pass says nothing of it."""
    for line in certificate.gaps:
        console.result(f"not verified: {line}")


def verdict(certificate: Certificate) -> str:
    """The line of a certificate that passed; a band of the user's own is part of it."""
    text = f"pass: {len(certificate.rows):,} comparisons"
    if (tolerance := certificate.tolerance) is None:
        return text
    return f"{text}, within your own band: atol {tolerance.atol:g}, rtol {tolerance.rtol:g}"


def _table(certificate: Certificate) -> Table:
    """One line for each part, target and output: where it differs most from PyTorch, and its largest ratio anywhere."""
    heads = (
        "part",
        "target",
        "output",
        "max |Δ|",
        "mean |Δ| there",
        "index",
        "probe",
        "× rounding, at most",
        "verdict",
    )
    table = Table(*heads, box=None, pad_edge=False)
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in certificate.rows:
        groups.setdefault((row.part, row.target, row.output), []).append(row)
    for names, rows in groups.items():
        failed = [row for row in rows if not row.passed]
        measured = [row for row in rows if row.measure.max_abs is not None]
        verdict = f"FAIL ({len(failed)} of {len(rows)})" if failed else "pass"
        if not measured:
            table.add_row(*names, "-", "-", "-", "-", "-", verdict)
            continue
        worst = max(measured, key=lambda row: row.measure.max_abs or 0.0)
        figures = worst.measure
        table.add_row(
            *names,
            f"{figures.max_abs:.2e}",
            f"{figures.mean_abs:.2e}",
            str(figures.worst_index),
            f"{worst.probe}, batch {worst.batch}",
            f"{max(row.ratio or 0.0 for row in measured):.2f}",
            verdict,
        )
    return table
