"""Alter a bundle in thousands of ways, and look at each with `inspect` or `load`: no traceback, no harm to a terminal.

    python benchmarks/tampering.py
    python benchmarks/tampering.py my.zip --count 1000
    python benchmarks/tampering.py --count 1000 --seed 1        other bundles

The kinds are those of tests/bundles/tampering/. A bundle of most kinds must be refused, in one line that names the
right file; some are harmless and must be accepted; with the rest either may happen. Exits 1 if anything else happens,
if a command writes a control character or a mark that turns the text, or needs more than 2 GB or 60 seconds.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.bundles.tampering import EXPENSIVE, FUZZED, HARMLESS, KINDS, Kind, Tampered
from tests.bundles.tampering.archives import files_of, summed
from vae_export import load
from vae_export.bundles import open_bundle
from vae_export.cli import app
from vae_export.errors import VaeExportError

BUNDLE = Path(__file__).parent.parent / "artifacts" / "reference" / "mnist.zip"
#: Of a bundle's rows of comparisons, those that are kept: reading all of them is most of the time.
_ROWS = 24
#: An expensive kind gets this share of the bundles of another.
_EXPENSIVE_SHARE = 20
_MAX_SECONDS, _MAX_BYTES = 60.0, 2 << 30


@dataclass(frozen=True)
class Outcome:
    """What a command did with a bundle.

    Attributes:
        code: the exit code.
        out, err: what it wrote.
        seconds: how long it took.
    """

    code: int
    out: str
    err: str
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description="Count altered bundles that are not treated as they should be.")
    parser.add_argument("bundle", nargs="?", type=Path, default=BUNDLE, help="default: the reference bundle")
    parser.add_argument("--count", type=int, default=10_000, help="number of altered bundles (default: 10,000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the alterations (default: 0)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # zipfile warns about duplicate names, which some kinds write
    good = _shortened(options.bundle)
    kinds = (*KINDS, *HARMLESS, *FUZZED)
    wrong, total, longest = Counter[str](), 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        for number, kind in enumerate(kinds):
            count = (options.count + number) // len(kinds)
            if kind in EXPENSIVE:
                count = -(-count // _EXPENSIVE_SHARE)
            faults, refused, slowest = _try(kind, good, count, options.seed, Path(folder) / "altered.zip")
            print(f"{kind.__name__:36}{refused:6,} of {count:6,} refused, {slowest:5.2f} s at most", flush=True)
            wrong.update({f"{kind.__name__}: {fault}": times for fault, times in faults.items()})
            total, longest = total + count, max(longest, slowest)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"\n{len(kinds)} kinds, {total:,} altered bundles, {sum(wrong.values())} not treated as they should be")
    print(f"longest {longest:.2f} s; peak of the process's memory {peak / 1e6:,.0f} MB")
    for fault, times in wrong.items():
        print(f"{times:6}  {fault}")
    return 1 if wrong or longest > _MAX_SECONDS or peak > _MAX_BYTES else 0


def _shortened(path: Path) -> bytes:
    """Return a bundle with few rows in its certificate; it is opened, which checks it."""
    files = files_of(path.read_bytes())
    certificate = json.loads(files["certificate.json"])
    rows = certificate["rows"][:: max(1, len(certificate["rows"]) // _ROWS)]
    files["certificate.json"] = json.dumps(certificate | {"rows": rows, "planned_rows": len(rows)}).encode()
    data = summed(files)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "good.zip").write_bytes(data)
        open_bundle(Path(folder) / "good.zip")
    return data


def _try(kind: Kind, good: bytes, count: int, seed: int, path: Path) -> tuple[Counter[str], int, float]:
    """Return the faults, the number of refused bundles, and the longest time in seconds."""
    rng = random.Random(f"{kind.__name__}{seed or ''}")  # noqa: S311 - repeatable, no secret
    faults, refused, slowest = Counter[str](), 0, 0.0
    looks = ("--load", "", "--json", "--card")
    for number in range(count):
        altered = kind(good, rng)
        path.write_bytes(altered.data)
        look = looks[number % len(looks)]
        outcome = _load(path) if look == "--load" else _inspect(path, look)
        refused, slowest = refused + (outcome.code != 0), max(slowest, outcome.seconds)
        fault = _fault(kind, altered, outcome) or (_unsafe(outcome) if look != "--load" else None)
        if fault is not None:
            faults[f"{look} {fault}"[:160]] += 1
    return faults, refused, slowest


def _load(path: Path) -> Outcome:
    """Open a bundle as an application does."""
    started = time.perf_counter()
    try:
        repr(load(path))
        code, message = 0, ""
    except VaeExportError as error:
        code, message = error.exit_code, f"{error}\n"
    except Exception as error:  # a bug, which is counted
        code, message = 1, f"{type(error).__name__}: {error}\n"
    return Outcome(code, "", message, time.perf_counter() - started)


def _inspect(path: Path, option: str) -> Outcome:
    """Run the command `inspect` in this process."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), "utf-8") for name in ("stdout", "stderr")}
    kept = {name: getattr(sys, name) for name in (*streams, "argv")}
    started = time.perf_counter()
    try:
        vars(sys).update(streams, argv=["vae-export", "inspect", str(path), *([option] if option else [])])
        code = app.run()
    finally:
        vars(sys).update(kept)
    seconds = time.perf_counter() - started
    out, err = (stream.buffer.getvalue().decode() for stream in streams.values())
    return Outcome(code, out, err, seconds)


def _fault(kind: Kind, altered: Tampered, outcome: Outcome) -> str | None:
    """Return what is wrong with an outcome, or None."""
    if outcome.code not in (0, 3, 4, 5):
        return f"exit {outcome.code}: {outcome.err}"
    if kind in KINDS and outcome.code == 0:
        return "accepted"
    if kind in HARMLESS and outcome.code != 0:
        return f"refused: {outcome.err}"
    if outcome.code != 0 and (outcome.out or outcome.err.count("\n") != 1):
        return f"not one line: {outcome.out}{outcome.err}"
    if kind in KINDS and altered.named and not any(name in outcome.err for name in altered.named):
        return f"another file named: {outcome.err}"
    return None


def _unsafe(outcome: Outcome) -> str | None:
    """Return the characters that must not reach a terminal, or None. `load` writes nothing itself."""
    # Joiners belong to letters and emoji, and no-break spaces are spaces.
    allowed = set("\n\t\u200c\u200d\xa0")
    unsafe = {letter for letter in outcome.out + outcome.err if not letter.isprintable()} - allowed
    return f"unsafe characters {unsafe!a}" if unsafe else None


if __name__ == "__main__":
    sys.exit(main())
