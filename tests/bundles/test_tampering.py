"""Whatever is done to a bundle: it is refused in one line that names the file, and nothing else happens."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bundles.tampering import EXPENSIVE, FUZZED, HARMLESS, KINDS, Kind
from tests.conftest import Outcome
from vae_export.bundles import open_bundle
from vae_export.errors import VaeExportError

pytestmark = pytest.mark.slow


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # of zipfile, which makes the fault
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_tampered_bundle_is_refused_by_name(packed: bytes, tmp_path: Path, kind: Kind) -> None:
    path = tmp_path / "tampered.zip"
    rng = random.Random(zlib.crc32(kind.__name__.encode()))
    for _ in range(1 if kind in EXPENSIVE else 12):
        tampered = kind(packed, rng)
        assert tampered.data != packed
        path.write_bytes(tampered.data)
        with pytest.raises(VaeExportError) as caught:
            open_bundle(path)
        said = str(caught.value)
        assert "\n" not in said
        assert caught.value.exit_code in (3, 4, 5)
        assert not tampered.named or any(name in said for name in tampered.named), said


@pytest.mark.parametrize("kind", [*HARMLESS, *FUZZED], ids=lambda kind: kind.__name__)
def test_altered_bundle_is_shown_without_harm(
    packed: bytes, tmp_path: Path, kind: Kind, invoke: Callable[..., Outcome]
) -> None:
    """A stranger's text neither moves the cursor nor turns what is written, and no document makes a traceback."""
    path = tmp_path / "altered.zip"
    rng = random.Random(zlib.crc32(kind.__name__.encode()))
    for number in range(12):
        path.write_bytes(kind(packed, rng).data)
        shown = invoke("inspect", path, *([], ["--json"], ["--card"])[number % 3])
        assert shown.code == 0 if kind in HARMLESS else shown.code in (0, 3, 4, 5), shown.err
        assert shown.code == 0 or (shown.out, shown.err.count("\n")) == ("", 1)
        hidden = [letter for letter in shown.out + shown.err if not letter.isprintable() and letter not in "\n\t\u200d"]
        assert not hidden, ascii(hidden)


def test_untouched_bundle_is_opened(packed: bytes, tmp_path: Path) -> None:
    """The archives above are refused because of the tampering: the untouched ones are accepted."""
    path = tmp_path / "good.zip"
    path.write_bytes(packed)
    assert open_bundle(path).certificate.passed
