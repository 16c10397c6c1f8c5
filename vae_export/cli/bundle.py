"""`bundle`: one file out of a certified export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vae_export.cli import console
from vae_export.cli.options import ForceOption, JsonOption, RunOption, chosen_run
from vae_export.errors import InputError, UsageError
from vae_export.io.atomic import write_atomic
from vae_export.io.staging import check_free


def bundle(
    run: RunOption = None,
    export: Annotated[
        Path | None, typer.Option("--export", help="Export folder. Default: the run's.", show_default=False)
    ] = None,
    format: Annotated[
        list[str] | None,
        typer.Option("--format", help="Formats to take. Repeatable. Default: all of the export.", show_default=False),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option("--part", help="Parts to take. Repeatable. Default: all of the export.", show_default=False),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option("--precision", help="Precisions to take. Repeatable. Default: all.", show_default=False),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Title of the model card. Default: the run's name.", show_default=False)
    ] = None,
    notes: Annotated[
        Path | None,
        typer.Option("--notes", help="Markdown file for the model card: purpose, limits.", show_default=False),
    ] = None,
    licence: Annotated[
        Path | None, typer.Option("--licence", help="Text file with the model's licence.", show_default=False)
    ] = None,
    page: Annotated[bool, typer.Option("--page", help="Take certificate.html along.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File to make. Default: NAME.zip in the run folder.", show_default=False),
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Pack a certified export into one file for applications.

    Model files, what goes in and out of them, test vectors, certificate, model card and licence: docs/bundle-format.md
    describes it. An export whose certificate did not pass, or is of other files, is refused.
    """
    if run is not None and export is not None:
        raise UsageError("--run and --export exclude each other", do="name one of them")
    if export is not None:
        folder, home = export, export.absolute().parent
    else:
        chosen = chosen_run(run)
        folder, home = chosen.export, chosen.folder
    title = _title(name or home.absolute().name, of_file=out is None)
    target = out if out is not None else home / f"{title}.zip"
    check_free(target, force=force)

    from vae_export.artifact.certificate import read_certificate
    from vae_export.artifact.folder import open_artifact
    from vae_export.bundle import pack
    from vae_export.bundle.reader import read_bundle
    from vae_export.bundle.writer import NO_LICENCE

    artifact = open_artifact(folder)
    data = pack(
        artifact,
        read_certificate(artifact.certificate),
        name=title,
        formats=format,
        parts=part,
        precisions=precision,
        page=_read(artifact.certificate.with_suffix(".html")) if page else None,
        notes="" if notes is None else _text(notes),
        licence=NO_LICENCE if licence is None else _text(licence),
    )
    packed = read_bundle(data, target)  # what is written is what any reader will accept
    write_atomic(target, data)
    if json:
        files = {name: len(data) for name, data in packed.files.items()}
        console.result_json({"bundle": str(target), "bytes": len(data), "identity": packed.identity, "files": files})
        return
    console.result(f"{len(packed.files)} files, {len(data):,} bytes, identity {packed.identity[:16]}…")
    console.result(f"bundled to {target}")


def _title(name: str, *, of_file: bool) -> str:
    """The title of the card, and of the file where no other name was given."""
    if not name.isprintable():  # nor is half of a surrogate pair, which no file can hold
        raise UsageError("bad name", where="--name", expected="printable text", got=ascii(name))
    if of_file and Path(name).name != name:
        raise UsageError("not a name for a file", where="--name", got=name, do="say where the file goes with --out")
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
