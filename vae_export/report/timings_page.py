"""Make the HTML page of a benchmark's timings, with the fastest files, the charts and all results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vae_export.artifact.certificate import StoredCertificate
from vae_export.bench.results import Timings
from vae_export.bench.subjects import EAGER
from vae_export.report import text, timings_charts
from vae_export.report.certificate_page import jinja_environment

TEMPLATE = "timings.html.j2"


def timings_page(timings: Timings, certificate: StoredCertificate) -> str:
    """Return the HTML page of a benchmark; it needs no other file, no network and no script.

    Args:
        timings: the results of a benchmark.
        certificate: the certificate of the measured files, which states their errors.

    Returns:
        The page.
    """
    return (
        jinja_environment()
        .get_template(TEMPLATE)
        .render(
            timings=timings,
            names=list(dict.fromkeys(subject.name for subject in timings.subjects)),
            errors={part: errors(certificate.document, part) for part in timings.plan["parts"]},
            machine=list(text.flat(timings.machine)),
            charts=timings_charts,
            text=text,
        )
    )


def errors(document: Mapping[str, Any], part: str) -> dict[str, float]:
    """Return the largest error of the first output of a part by target; PyTorch's own error is under `eager/cpu`.

    Args:
        document: the certificate.
        part: the part of the model.

    Returns:
        The largest distance to float64 over all probes but the one with the largest values.
    """
    found: dict[str, float] = {}
    rows = [row for row in document.get("rows", ()) if row["part"] == part]
    first = rows[0]["output"] if rows else None
    for row in rows:
        if row["output"] == first and row["error"] is not None and row["probe"] != "largest":
            found[row["target"]] = max(row["error"], found.get(row["target"], 0.0))
            if "+" not in row["target"]:  # other precisions state PyTorch's error with quantised numbers
                found[EAGER] = max(row["eager_error"], found.get(EAGER, 0.0))
    return found
