"""`inspect`: what is in a bundle, for a person."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from vae_export.cli import console
from vae_export.cli.options import JsonOption

if TYPE_CHECKING:
    from vae_export.bundle import Bundle


def inspect(
    file: Annotated[Path, typer.Argument(help="A bundle, made by `bundle`.")],
    card: Annotated[bool, typer.Option("--card", help="Print the model card instead.")] = False,
    json: JsonOption = False,
) -> None:
    """Show what is in a bundle, after every byte of it was checked."""
    from vae_export.bundle import open_bundle
    from vae_export.runtime.options import running

    opened = open_bundle(file)
    if json:
        console.result_json(_document(opened))
        return
    if card:
        console.result(opened.card.rstrip())
        return
    document = opened.certificate.document
    contract = opened.manifest.contract
    low, high = contract.image_range
    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_row("bundle", str(file))
    facts.add_row("identity", opened.identity)
    facts.add_row("model", opened.card.splitlines()[0].removeprefix("# "))
    facts.add_row("image", f"float32 (N, {', '.join(map(str, contract.image_shape))}) in [{low:g}, {high:g}]")
    facts.add_row("latent", f"float32 (N, {', '.join(map(str, contract.latent_shape))}), drawn from N(0, I)")
    verdict = f"{document['verdict']}: {document.get('planned_rows', 0):,} comparisons with float64"
    own_band = opened.certificate.own_band
    facts.add_row("verified", verdict + (f", within a band of the maker's own: {own_band}" if own_band else ""))
    for advice in opened.manifest.recommended:
        facts.add_row("recommended", f"{advice.file}, {advice.words}, for {advice.part} in batches of {advice.batch:,}")
        facts.add_row("here", f"{advice.part}: {running(opened.manifest, advice.part, None, None, None)}")
    facts.add_row("made by", ", ".join(f"{key} {value}" for key, value in sorted(opened.manifest.versions.items())))
    console.result(facts)
    table = Table("file", "bytes", "what", box=None, pad_edge=False)
    parts = {
        stored.name: f"{entry.part}, {entry.format}, {entry.precision}"
        for entry in opened.manifest.files
        for stored in entry.stored
    }
    golden = {
        array.name: f"golden {kind}, {' x '.join(map(str, array.shape))}"
        + (f", within {array.band:.2g}" if array.band else "")
        for part in opened.manifest.golden
        for kind, arrays in (("input", part.inputs), ("output", part.outputs))
        for array in arrays
    }
    for name, data in opened.files.items():
        table.add_row(name, f"{len(data):,}", parts.get(name) or golden.get(name) or _WORDS[name])
    console.result("")
    console.result(table)
    console.result("\nWhole: every hash matches. The bundle is not signed: this detects corruption, not forgery.")


_WORDS = {
    "SHA256SUMS": "hashes of all other files",
    "manifest.json": "contract, files, golden vectors",
    "certificate.json": "record of verification",
    "certificate.html": "the same, for people",
    "MODEL_CARD.md": "what the model is (--card prints it)",
    "LICENSE": "the model's licence",
}


def _document(opened: Bundle) -> dict[str, Any]:
    certificate = {key: value for key, value in opened.certificate.document.items() if key != "rows"}
    return {
        "identity": opened.identity,
        "manifest": opened.manifest.to_json(),
        "certificate": certificate,
        "files": {name: len(data) for name, data in opened.files.items()},
    }
