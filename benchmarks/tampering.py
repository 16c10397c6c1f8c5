"""Tamper with a bundle in thousands of ways, and check that each is refused in one line that names the right file.

    python benchmarks/tampering.py
    python benchmarks/tampering.py my.zip --count 1000

The kinds of tampering are those of tests/bundles/tampering/. Exits 1 if a bundle is accepted, if another file is named,
or if there is a traceback.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.bundles.tampering import KINDS, Kind
from vae_export.bundles import open_bundle
from vae_export.errors import VaeExportError

BUNDLE = Path(__file__).parent.parent / "artifacts" / "reference" / "mnist.zip"


def main() -> int:
    parser = argparse.ArgumentParser(description="Count tampered bundles that are not refused as they should be.")
    parser.add_argument("bundle", nargs="?", type=Path, default=BUNDLE, help="default: the reference bundle")
    parser.add_argument("--count", type=int, default=10_000, help="number of tampered bundles (default: 10,000)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # zipfile warns about duplicate names, which some kinds write
    good = options.bundle.read_bytes()
    open_bundle(options.bundle)
    wrong = Counter[str]()
    total = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, kind in enumerate(KINDS):
            count = (options.count + number) // len(KINDS)
            outcomes = _outcomes(kind, good, count, Path(folder) / "tampered.zip")
            refused = outcomes["refused"]
            print(f"{kind.__name__:28}{refused:6,} of {count:6,} refused", flush=True)
            wrong.update({f"{kind.__name__}: {what}": n for what, n in outcomes.items() if what != "refused"})
            total += count
    print(f"\n{len(KINDS)} kinds, {total:,} tampered bundles, {sum(wrong.values())} not refused as they should be")
    for what, times in wrong.items():
        print(f"{times:6}  {what}")
    return 1 if wrong else 0


def _outcomes(kind: Kind, good: bytes, count: int, path: Path) -> Counter[str]:
    rng = random.Random(kind.__name__)  # noqa: S311 - repeatable, no secret
    outcomes = Counter[str]()
    for _ in range(count):
        tampered = kind(good, rng)
        path.write_bytes(tampered.data)
        try:
            open_bundle(path)
            outcomes["accepted"] += 1
        except VaeExportError as error:
            message = str(error)
            named = not tampered.named or any(name in message for name in tampered.named)
            outcomes["refused" if named and "\n" not in message else f"misnamed: {message[:120]}"] += 1
        except Exception as error:  # a bug, which is counted
            outcomes[f"{type(error).__name__}: {error}"[:120]] += 1
    return outcomes


if __name__ == "__main__":
    sys.exit(main())
