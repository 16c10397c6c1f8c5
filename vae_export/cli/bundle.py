"""`bundle` packs a certified export into one file; `inspect` shows what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from vae_export.cli import console
from vae_export.cli.command import choices_option, grouped, option_group
from vae_export.cli.options import (
    ExportOption,
    ForceOption,
    JsonOption,
    RunOption,
    chosen_run,
    out_option,
    refuse_together,
)
from vae_export.contract import EVERY_PART
from vae_export.errors import InputError, UsageError
from vae_export.formats import FORMATS
from vae_export.io.atomic import write_atomic
from vae_export.io.staging import check_free
from vae_export.precision import PRECISIONS

if TYPE_CHECKING:
    from vae_export.bundle import Bundle


@option_group("Contents")
class ContentOptions:
    """The contents of the bundle."""

    format: Annotated[
        list[str] | None, choices_option("--format", FORMATS, help="Format to take. Repeatable. Default: all.")
    ] = None
    part: Annotated[
        list[str] | None, choices_option("--part", EVERY_PART, help="Part to take. Repeatable. Default: all.")
    ] = None
    precision: Annotated[
        list[str] | None, choices_option("--precision", PRECISIONS, help="Precision to take. Repeatable. Default: all.")
    ] = None
    name: Annotated[str | None, typer.Option("--name", help="Title of the model card. Default: the run's name.")] = None
    notes: Annotated[
        Path | None,
        typer.Option("--notes", metavar="FILE", help="Markdown for the model card: purpose and limits of the model."),
    ] = None
    licence: Annotated[Path | None, typer.Option("--licence", metavar="FILE", help="Text of the model's licence.")] = (
        None
    )
    page: Annotated[bool, typer.Option("--page", help="Include certificate.html.")] = False


@grouped
def bundle(
    *,
    run: RunOption = None,
    export: ExportOption = None,
    contents: ContentOptions,
    out: Annotated[Path | None, out_option("FILE", "File to make. Default: NAME.zip in the run folder.")] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Pack a certified export into one file for applications.

    The bundle holds the model files, their inputs and outputs, golden vectors, certificate, model card and licence
    (docs/bundle-format.md). An export is refused if its certificate did not pass or belongs to other files.
    """
    refuse_together(run=run, export=export)
    if export is not None:
        folder, home = export, export.absolute().parent
    else:
        chosen = chosen_run(run)
        folder, home = chosen.export, chosen.folder
    title = _title(contents.name or home.absolute().name, of_file=out is None)
    target = out if out is not None else home / f"{title}.zip"
    check_free(target, force=force)

    from vae_export.artifact.certificate import read_certificate
    from vae_export.artifact.folder import open_artifact
    from vae_export.bundle.reader import read_bundle
    from vae_export.bundle.writer import NO_LICENCE, pack

    artifact = open_artifact(folder)
    data = pack(
        artifact,
        read_certificate(artifact.certificate),
        name=title,
        formats=contents.format,
        parts=contents.part,
        precisions=contents.precision,
        page=_read(artifact.certificate.with_suffix(".html")) if contents.page else None,
        notes="" if contents.notes is None else _text(contents.notes),
        licence=NO_LICENCE if contents.licence is None else _text(contents.licence),
    )
    packed = read_bundle(data, target)  # refuses what another reader would refuse
    write_atomic(target, data)
    if json:
        files = {name: len(data) for name, data in packed.files.items()}
        console.result_json({"bundle": str(target), "bytes": len(data), "identity": packed.identity, "files": files})
        return
    console.result(f"{len(packed.files)} files, {len(data):,} bytes, identity {packed.identity[:16]}…")
    console.result(f"bundled to {target}")


def _title(name: str, *, of_file: bool) -> str:
    """Check the title of the model card, which is also the name of the file unless --out was passed."""
    if not name.isprintable():  # this excludes lone surrogates, which no file can hold
        raise UsageError("bad name", where="--name", expected="printable text", got=ascii(name))
    if of_file and Path(name).name != name:
        raise UsageError("not a valid file name", where="--name", got=name, do="pass --out for the file")
    return name


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError("file cannot be read", where=path, got=error.strerror) from error


def _text(path: Path) -> str:
    try:
        return _read(path).decode()
    except UnicodeDecodeError as error:
        raise InputError(
            "not a text", where=path, expected="UTF-8", got=f"byte {error.start}: {error.reason}"
        ) from error


def inspect(
    file: Annotated[Path, typer.Argument(help="Bundle, made by `bundle`.")],
    card: Annotated[bool, typer.Option("--card", help="Print the model card instead of the contents.")] = False,
    json: JsonOption = False,
) -> None:
    """Check every byte of a bundle and show its contents."""
    from vae_export.bundle import open_bundle
    from vae_export.runtime.chosen_options import choose_options

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
    facts.add_row("latent", f"float32 (N, {', '.join(map(str, contract.latents[0].fixed_item))}), drawn from N(0, I)")
    verdict = f"{document['verdict']}: {document.get('planned_rows', 0):,} comparisons with float64"
    own = opened.certificate.own_tolerance
    facts.add_row("verified", verdict + (f", within the maker's own tolerance: {own}" if own else ""))
    for advice in opened.manifest.recommended:
        facts.add_row(
            "recommended", f"{advice.file}, {advice.options}, for {advice.part} in batches of {advice.batch:,}"
        )
        facts.add_row("here", f"{advice.part}: {choose_options(opened.manifest, advice.part)}")
    facts.add_row("made by", ", ".join(f"{key} {value}" for key, value in sorted(opened.manifest.versions.items())))
    console.result(facts)
    table = console.table("file", "bytes", "content", right=["bytes"], wrap=["content"])
    parts = {
        stored.name: f"{entry.part}, {entry.format}, {entry.precision}"
        for entry in opened.manifest.files
        for stored in entry.stored
    }
    golden = {
        array.name: f"golden {kind}, {' x '.join(map(str, array.shape))}"
        + (f", within {array.tolerance:.2g}" if array.tolerance else "")
        for part in opened.manifest.golden
        for kind, arrays in (("input", part.inputs), ("output", part.outputs))
        for array in arrays
    }
    for name, data in opened.files.items():
        table.add_row(name, f"{len(data):,}", parts.get(name) or golden.get(name) or _WORDS[name])
    console.result("")
    console.result(table)
    console.result("\nIntact: every hash matches. The bundle is not signed: this detects corruption, not forgery.")


_WORDS = {
    "SHA256SUMS": "hashes of all other files",
    "manifest.json": "contract, files, golden vectors",
    "certificate.json": "every figure of the verification",
    "certificate.html": "the certificate as a page",
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
