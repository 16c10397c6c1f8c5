"""JSON of a stranger: what two parsers could read differently, or what takes all memory, is refused in one line."""

from __future__ import annotations

import hashlib
import json
import re

import pytest

from tests.commands import ROOT
from vae_export.errors import IntegrityError
from vae_export.io.strict_json import (
    INTEGER_LIMIT,
    MAX_DEPTH,
    MAX_VALUES,
    dump_spelled,
    has_values,
    parse_json,
    parse_spelled,
)


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"1e999", "number is too large: 1e999"),
        (b"-1e99999", "number is too large"),
        (str(INTEGER_LIMIT).encode(), "number is too large"),
        (str(-INTEGER_LIMIT).encode(), "number is too large"),
        (b"9" * 5_000, "manifest cannot be read"),
        (b"NaN", "NaN is not JSON"),
        (b"-Infinity", "-Infinity is not JSON"),
        (rb'"\ud800"', "surrogates not allowed"),
        (rb'{"a": ["\uDFFF x"]}', "surrogates not allowed"),
        (rb'{"\ude00\ud83d": 1}', "surrogates not allowed"),
        (b'"\xed\xa0\x80"', "manifest cannot be read"),
        (b"\xef\xbb\xbf{}", "manifest cannot be read"),
        (b'{"a": 1, "a": 1}', "duplicate key"),
        (nested(MAX_DEPTH + 1), "manifest is nested too deep: here; expected 64 levels at most"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "manifest is nested too deep"),
        (nested(100_000), "manifest cannot be read"),
        (b"[" + b"0," * MAX_VALUES + b"0]", "manifest is too large: here; expected 4,194,304 values at most"),
    ],
    ids=lambda value: ascii(value[:20]),
)
def test_odd_document_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(IntegrityError, match=said) as refused:
        parse_json(data, "manifest", "here", limit=1 << 24)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "value",
    [INTEGER_LIMIT - 1, 1.7976931348623157e308, 5e-324, "\U0001f600 é", {"a": [None, True, {}]}, "", [-0.0, 0]],
)
def test_document_comes_back_as_it_was(value: object) -> None:
    for is_ascii in (True, False):
        assert parse_json(json.dumps(value, ensure_ascii=is_ascii).encode(), "manifest", "here") == value
    assert parse_json(nested(MAX_DEPTH), "manifest", "here")


def test_expected_values_are_found_among_others() -> None:
    expected = {"shape": ["N", 3], "range": [0.0, 1.0], "part": None}
    assert has_values({"shape": ["N", 3], "range": [0, 1], "part": None, "later": 1}, expected)
    for change in (
        {"shape": ["N", 3, 1]},
        {"shape": "N3"},
        {"range": [False, True]},
        {"range": ["0", "1"]},
        {"part": 0},
    ):
        assert not has_values(expected | change, expected)
    assert not has_values({"shape": ["N", 3], "range": [0, 1]}, expected)
    assert not has_values(None, expected)


@pytest.mark.parametrize(
    "value",
    [1.5e-7, 10**18, [{}, [], None, True], {"b": "\u00e9\U0001f600\x7f/\n", "a": {"\uffff": 1, "\U0001f600": 2}}],
)
def test_one_spelling_is_that_of_python_where_numbers_are(value: object) -> None:
    assert dump_spelled(parse_spelled(json.dumps(value, indent=2).encode())) == json.dumps(value, sort_keys=True)


def test_one_spelling_is_the_example_of_the_specification() -> None:
    page = (ROOT / "docs" / "bundle-format.md").read_text("utf-8")
    found = re.search(r"Of `(.+?)`, the\nspelling is `(.+?)`, and the hash is\n`(\w+)`", page)
    assert found is not None
    value, spelling, digest = found.groups()
    assert dump_spelled(parse_spelled(value.encode())) == spelling
    assert hashlib.sha256(spelling.encode()).hexdigest() == digest
