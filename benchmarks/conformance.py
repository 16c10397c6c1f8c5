"""Write the conformance corpus of the bundle format into a folder, and run a reader against it.

    python benchmarks/conformance.py build/conformance
    python benchmarks/conformance.py build/conformance --reader 'node js/tests/conformance.js'

The corpus is made from artifacts/reference/mnist.zip: bundles that every reader must accept, and bundles that a strict
reader must refuse. `expected.tsv` beside them has a line for each: its name, `accept` or `refuse`, and the reason.

A reader is a command that is run once, with the folder as its last argument. It opens every file NAME.zip in it, and
writes a line `NAME accept` or `NAME refuse` for each. Exits 1 if an answer is missing or differs.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.bundles.conformance import EXPECTED, read_by, write_corpus


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the conformance corpus, and run a reader against it.")
    parser.add_argument("folder", type=Path, help="where the corpus is written")
    parser.add_argument("--reader", metavar="COMMAND", help="a reader, which gets the folder as its last argument")
    options = parser.parse_args()
    expected = write_corpus(options.folder)
    if options.reader is None:
        print(f"{len(expected)} bundles and {EXPECTED} in {options.folder}")
        return 0
    found = read_by(shlex.split(options.reader), options.folder)
    reasons = dict(line.split("\t")[::2] for line in (options.folder / EXPECTED).read_text("utf-8").splitlines())
    wrong = [name for name in expected if found.get(name) != expected[name]]
    for name in wrong:
        print(f"{name}: expected {expected[name]}, got {found.get(name, 'no answer')}; {reasons[name]}")
    print(f"{len(expected) - len(wrong)} of {len(expected)} bundles judged as specified")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
