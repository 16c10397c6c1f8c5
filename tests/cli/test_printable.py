"""Texts of strangers reach the terminal as text: no character of them moves the cursor or turns what is written."""

from __future__ import annotations

import os

import pytest

from vae_export.cli import console


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("a\rb\r\nc", "a\\rb\nc"),
        ("\x9b1m\x85", r"\x9b1m\x85"),
        ("abc\u202egpj.exe\u2066", r"abc\u202egpj.exe\u2066"),
        ("a\u2028b\ufeff\u200b", r"a\u2028b\ufeff\u200b"),
        ("\ud800\udfff", r"\ud800\udfff"),
        ("\U000e0041", r"\U000e0041"),
        ("naïve 数 \U0001f469\u200d\U0001f4bb a\xa0b שלום", "naïve 数 \U0001f469\u200d\U0001f4bb a\xa0b שלום"),
    ],
)
def test_every_way_out_shows_controls_as_escapes(capsys: pytest.CaptureFixture[str], text: str, shown: str) -> None:
    console.result(text)
    console.message(text)
    said = capsys.readouterr()
    assert (said.out, said.err) == (f"{shown}\n", f"{shown}\n")


def test_tables_show_controls_as_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    table = console.table("file", "content")
    table.add_row("\x1b[31mred\x1b[0m", "\u202eturned [bold] :smile:")
    console.result(table)
    assert r"\x1b[31mred\x1b[0m" in (out := capsys.readouterr().out)
    assert r"\u202eturned [bold] :smile:" in out


def test_bytes_of_a_path_stay_as_they_are(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    console.message(os.fsdecode(b"caf\xe9.zip"))
    assert capfdbinary.readouterr().err == b"caf\xe9.zip\n"
