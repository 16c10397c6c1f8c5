"""Measure the decoder's files beside PyTorch and the roofline, and how long an export takes.

    python benchmarks/inference.py
    python benchmarks/inference.py artifacts/mnist-mlp --rounds 12 --picture docs/pictures/latency.png

Exports the decoder of a run, or of a freshly initialised `mlp`, in every format and precision, and measures all of them
in one run of `vae_export.bench`. Ratios are to PyTorch with the same number of threads: the median over the rounds
with quartiles. "Within a grey level" are files whose worst pixel is at most one level off, as their certificate states.
The last table says by how much the fastest float32 subject passed the libraries' products, which are the roofline where
it did not. `--picture` needs Chromium.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from untrained import initialised

from vae_export import open_artifact
from vae_export.artifact.certificate import read_certificate
from vae_export.bench.benchmark import bench
from vae_export.bench.results import BATCHES, BenchPlan, BenchResult, Timings
from vae_export.report.timings_page import errors, timings_page

ROOT = Path(__file__).parent.parent
LEVEL = 1 / 255
EXPORTS = 3
#: Width and height of the picture in CSS pixels.
_PICTURE = "860,600"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="run folder; default: a freshly initialised mlp")
    parser.add_argument("--rounds", type=int, default=BenchPlan().rounds)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--page", type=Path, help="write a page with tables and charts of all files here")
    parser.add_argument("--picture", type=Path, help="write the first chart of the page as PNG here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        checkpoint = given.run / "checkpoint.safetensors" if given.run else initialised(folder)
        _export_seconds(checkpoint, folder)
        _cli("export", "--checkpoint", checkpoint, "--part", "decoder", "--format", "all", "--precision", "all",
             "--out", folder / "export")  # fmt: skip
        artifact = open_artifact(folder / "export")
        certificate = read_certificate(artifact.certificate)
        plan = BenchPlan(threads=tuple(given.threads), rounds=given.rounds)
        timings = bench(artifact, checkpoint, certificate, plan, report=lambda line: print(line, file=sys.stderr))
        if given.page:
            given.page.write_text(timings_page(timings, certificate), "utf-8")
        if given.picture:
            write_picture(timings_page(timings, certificate), given.picture)
        found = errors(certificate.document, "decoder")
        print(f"{timings.machine['processor']}, load average {timings.machine['load_average']}, {given.rounds} rounds")
        for title, most, precision in (("float32", 1.0, "fp32"), ("within a grey level of float64", LEVEL, None)):
            print(f"\n{title:34}{'median':>12}{'× eager':>26}{'roofline':>14}{'error':>10}")
            for batch in BATCHES:
                for threads in given.threads:
                    best = _best(timings, batch, threads, found, most, precision)
                    print(_line(best, found[best.subject]))
        print(f"\n{'batch, threads':20}{'products':>12}{'at the peak':>14}{'shortest call':>16}{'exceeded by':>14}")
        for roofline in timings.rooflines:
            times = (roofline.products_seconds, roofline.peak_seconds, roofline.fastest_call_seconds or 0)
            products, peak, call = (f"{seconds * 1e6:,.1f} µs" for seconds in times)
            case = f"{roofline.batch}, {roofline.threads}"
            print(f"{case:20}{products:>12}{peak:>14}{call:>16}{roofline.exceeded - 1:14.1%}")
        sizes = {
            subject.precision: subject.file_bytes for subject in timings.subjects if subject.name.startswith("onnx")
        }
        if sizes.get("int8") and sizes.get("fp32"):
            print(f"\nint8 file over float32 file: {(sizes['int8'] or 0) / (sizes['fp32'] or 1):.3f}")


def write_picture(page: str, out: Path) -> None:
    """Write the first chart of a page of timings as PNG, in the light colours, at the size at which GitHub shows it."""
    style = page[page.index("<style>") : page.index("</style>")]
    figure = page[page.index('<figure class="wide">') : page.index("</figure>")]
    alone = f"<!doctype html><meta charset=utf-8>{style} body {{ background: #fff }}</style>{figure}</figure>"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        source = Path(folder) / "chart.html"
        source.write_text(alone, "utf-8")
        flags = ["--headless", "--no-sandbox", "--hide-scrollbars", "--force-device-scale-factor=1.5"]
        command = ["chromium", *flags, f"--user-data-dir={folder}/profile", f"--window-size={_PICTURE}"]
        subprocess.run([*command, f"--screenshot={out.absolute()}", source.as_uri()], check=True, capture_output=True)


def _best(
    timings: Timings, batch: int, threads: int, found: Mapping[str, float], most: float, precision: str | None
) -> BenchResult:
    """Return the fastest file of a precision, or of any, whose error is at most `most`."""
    files = {subject.name for subject in timings.subjects if subject.file and precision in (None, subject.precision)}
    fit = [
        result
        for result in timings.results
        if (result.batch, result.threads) == (batch, threads)
        and result.subject in files
        and found.get(result.subject, 1.0) <= most
    ]
    return max(fit, key=lambda result: result.speedup.median)


def _line(result: BenchResult, error: float) -> str:
    speed, share = result.speedup, result.roofline_share
    name = f"{result.batch}, {result.subject.replace('ExecutionProvider', '')}, {result.threads}"
    ratio = f"{speed.median:.2f} ({speed.low:.2f} to {speed.high:.2f})"
    of_roofline = "-" if share is None else f"{share.median:.0%}"
    return f"{name:34}{result.p50_seconds * 1e6:9,.1f} µs{ratio:>26}{of_roofline:>14}{error:10.1e}"


def _export_seconds(checkpoint: Path, folder: Path) -> None:
    """Print how long exports take, as whole processes; the first one fills caches and does not count."""
    taken = []
    for index in range(EXPORTS + 1):
        started = time.perf_counter()
        _cli(
            "export", "--checkpoint", checkpoint, "--format", "onnx", "--part", "decoder", "--out", folder / f"{index}"
        )
        taken.append(time.perf_counter() - started)
    median = statistics.median(taken[1:])
    print(
        f"export --format onnx --part decoder, certificate included: {median:.1f} s "
        f"({min(taken):.1f} to {max(taken):.1f})"
    )


def _cli(*arguments: object) -> None:
    subprocess.run([sys.executable, ROOT / "cli.py", *map(str, arguments)], check=True, capture_output=True)


if __name__ == "__main__":
    main()
