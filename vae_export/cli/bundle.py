"""`bundle` packs a certified export into one file; `inspect` shows what is in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from vae_export.artifact.folder import CERTIFICATE, open_artifact
from vae_export.artifact.manifest import MANIFEST
from vae_export.bundles.reader import CARD, LICENCE, PAGE, SUMS, check_bundle_free
from vae_export.bundles.signature import SIGNATURE, signing_key
from vae_export.cli import console
from vae_export.cli.command import choices_option, grouped, option_group
from vae_export.cli.options import (
    BudgetOptions,
    EffortOptions,
    ExportOption,
    ForceOption,
    JsonOption,
    NamedModelOptions,
    RunOption,
    VerifyKeyOption,
    chosen_run,
    opened,
    out_option,
    refuse_together,
    run_of,
)
from vae_export.contract import EVERY_PART, NORMAL
from vae_export.errors import InputError, UsageError
from vae_export.formats import FORMATS
from vae_export.io.atomic import sha256
from vae_export.precision import PRECISIONS

if TYPE_CHECKING:
    from vae_export.bundles import Bundle
    from vae_export.serving.models import ServedBundle
    from vae_export.sources import NamedModel
    from vae_export.tensors import TensorSpec


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
    sign: Annotated[
        Path | None,
        typer.Option("--sign", metavar="KEY", help="Private key (Ed25519, PEM) to sign with."),
    ] = None


@option_group("Triton")
class TritonOptions:
    """A model repository beside the bundle."""

    triton: Annotated[
        Path | None,
        typer.Option("--triton", metavar="FOLDER", help="Also write a model repository for Triton Inference Server."),
    ] = None
    triton_version: Annotated[
        int, typer.Option("--triton-version", help="Version of the models in it.", min=1, max=999_999_999)
    ] = 1

    def checked(self, bundle: Path, *, force: bool) -> ServedBundle | None:
        """Return the name and version of the models, before long work; None if no repository is wanted."""
        from vae_export.serving.models import ServedBundle

        if self.triton is None:
            return None
        from vae_export.serving.triton import check_repository_free

        served = replace(ServedBundle.of_file(bundle), version=self.triton_version)
        check_repository_free(self.triton, served, force=force)
        return served


@grouped
def bundle(
    *,
    run: RunOption = None,
    export: ExportOption = None,
    model: NamedModelOptions,
    contents: ContentOptions,
    effort: EffortOptions,
    triton: TritonOptions,
    out: Annotated[Path | None, out_option("FILE", "File to make. Default: NAME.zip in the run folder.")] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Pack a certified export into one file for applications.

    The bundle holds the model files, their inputs and outputs, golden vectors, certificate, model card and licence
    (docs/bundle-format.md). An export is refused if its certificate did not pass or belongs to other files. With
    --model the model is exported and verified first, unless its export is there.
    """
    refuse_together(run=run, export=export)
    named = model.named(run=run, export=export)
    if named is None and effort != EffortOptions():
        raise UsageError("--verify-minutes and --thorough go with --model", do="pass them to verify")
    folder, home = _folders(run, export, named)
    title = _title(contents.name or home.absolute().name, of_file=out is None)
    target = out if out is not None else home / f"{title}.zip"
    check_bundle_free(target, force=force)
    served = triton.checked(target, force=force)
    notes = "" if contents.notes is None else _text("--notes", contents.notes)
    licence = None if contents.licence is None else _text("--licence", contents.licence)
    key = None if contents.sign is None else signing_key(contents.sign)
    if named is not None:
        _export_first(named, folder, contents, effort, force=force)

    from vae_export.bundles.writer import NO_LICENCE, write_bundle

    packed = write_bundle(
        open_artifact(folder),
        target,
        name=title,
        formats=contents.format,
        parts=contents.part,
        precisions=contents.precision,
        page=contents.page,
        notes=notes,
        licence=NO_LICENCE if licence is None else licence,
        sign_key=key,
        force=force,
    )
    models: list[Path] = []
    if served is not None and triton.triton is not None:
        from vae_export.serving.triton import write_triton

        models = write_triton(packed, triton.triton, served, force=force)
    if json:
        console.result_json(_result(packed, models))
        return
    console.result(f"{len(packed.files)} files, {target.stat().st_size:,} bytes, identity {packed.identity[:16]}…")
    if packed.signed_by is not None:
        console.result(f"signed by the key {packed.signed_by}")
    console.result(f"bundled to {target}")
    if models:
        console.result(f"{len(models)} models for Triton in {triton.triton}")


def _folders(run: Path | None, export: Path | None, model: NamedModel | None) -> tuple[Path, Path]:
    """Return the folder of the export, and that of the bundle, whose name is the default title.

    Raises:
        UsageError: there is no such run.
        IntegrityError: the export of the run is not of its checkpoint.
    """
    if model is not None:
        return run_of(model).export, run_of(model).folder
    if export is not None:
        return export, export.resolve().parent  # ".." is no name
    chosen = chosen_run(run, exported=True)
    if chosen.checkpoint.exists():
        do = "run: vae-export export --force, or pass --export to bundle it as it is"
        open_artifact(chosen.export).require_origin(sha256(chosen.checkpoint), do=do)
    return chosen.export, chosen.folder


def _result(packed: Bundle, models: Sequence[Path]) -> dict[str, Any]:
    """Return the result of `bundle --json`."""
    return {
        "bundle": str(packed.path),
        "bytes": packed.path.stat().st_size,
        "identity": packed.identity,
        "files": {name: len(data) for name, data in packed.files.items()},
        "signed_by": packed.signed_by,
        "triton": list(map(str, models)),
    }


def _export_first(
    model: NamedModel, folder: Path, contents: ContentOptions, effort: EffortOptions, *, force: bool
) -> None:
    """Export a model to a folder; an export of the very same model that is there is kept."""
    from vae_export.cli.export import OutputFileOptions, export_to

    if folder.exists() and not force:
        if dict(open_artifact(folder).manifest.provenance) != dict(opened(model).provenance):
            do = "pass --force to export it again"
            raise UsageError("folder has the export of another model, or of other weights", where=folder, do=do)
        console.note(f"taking the export in {folder}; --force exports and verifies it again")
        return
    files = OutputFileOptions(format=contents.format, part=contents.part, precision=contents.precision)
    _, certificate = export_to(folder, files, effort, BudgetOptions(), lambda: opened(model), force=force)
    console.message(f"verified: {len(certificate.results):,} comparisons with PyTorch passed")


def _title(name: str, *, of_file: bool) -> str:
    """Check the title of the model card, which is also the name of the file unless --out was passed."""
    if not name.isprintable():  # this excludes lone surrogates, which no file can hold
        raise UsageError("bad name", where="--name", expected="printable text", got=ascii(name))
    if of_file and Path(name).name != name:
        raise UsageError("not a valid file name", where="--name", got=name, do="pass --out for the file")
    return name


def _text(option: str, path: Path) -> str:
    """Return the text of the file that an option names."""
    where = f"{option} {path}"
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise InputError("file cannot be read", where=where, got=error.strerror) from error
    except UnicodeDecodeError as error:
        got = f"byte {error.start}: {error.reason}"
        raise InputError("not a text", where=where, expected="UTF-8", got=got) from error


def inspect(
    file: Annotated[Path, typer.Argument(help="Bundle, made by `bundle`.")],
    card: Annotated[bool, typer.Option("--card", help="Print the model card instead of the contents.")] = False,
    verify_key: VerifyKeyOption = None,
    json: JsonOption = False,
) -> None:
    """Check every byte of a bundle and show its contents."""
    from vae_export.bundles import open_bundle

    opened = open_bundle(file, verify_key=verify_key)
    if json:
        console.result_json(_document(opened))
        return
    if card:
        console.result(opened.card.rstrip())
        return
    facts = Table(show_header=False, box=None, pad_edge=False)
    for name, text in _facts(opened, file):
        facts.add_row(name, text)
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
    console.result("")
    console.paragraph(f"Intact: every hash matches. {_trust(opened)}")


def _facts(opened: Bundle, file: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines on a whole bundle: their names and texts."""
    from vae_export.runtime.chosen_options import choose_options

    document, contract = opened.certificate.document, opened.manifest.contract
    yield "bundle", str(file)
    yield "identity", opened.identity
    yield "model", opened.title or "without a title"
    yield contract.data.name, _describe(contract.data)
    if contract.output != contract.data:
        yield contract.output.name, _describe(contract.output)
    for latent in contract.latents:
        yield latent.name, f"{_describe(latent)}, {_PRIORS[contract.prior or NORMAL]}"
    for condition in contract.conditions:
        yield condition.name, f"{_describe(condition.tensor)}, for {' and '.join(condition.parts)}"
    own = opened.certificate.own_tolerance
    within = f", within the maker's own tolerance: {own}" if own else ""
    yield "verified", f"{document['verdict']}: {document['planned_rows']:,} comparisons with float64{within}"
    for advice in opened.manifest.recommended:
        yield "recommended", f"{advice.file}, {advice.options}, for {advice.part} in batches of {advice.batch:,}"
        yield "here", f"{advice.part}: {choose_options(opened.manifest, advice.part)}"
    yield "made by", ", ".join(f"{key} {value}" for key, value in sorted(opened.manifest.versions.items()))


def _describe(tensor: TensorSpec) -> str:
    within = f" in [{tensor.low:g}, {tensor.high:g}]" if tensor.is_bounded else ""
    return f"{tensor.dtype} ({', '.join(map(str, tensor.shape))}){within}"


def _trust(opened: Bundle) -> str:
    """Return what the check says about who made the bundle."""
    if opened.signed_by is not None:
        return f"Signed by the key {opened.signed_by}."
    if opened.is_signed:
        return "Its signature was not checked: pass --verify-key. Without it, this detects corruption, not forgery."
    return "The bundle is not signed: this detects corruption, not forgery."


_PRIORS: dict[str, str] = {
    NORMAL: "drawn from N(0, I)",
    "uniform": "drawn uniformly",
    "given by the user": "drawn by the user",
}
_WORDS = {
    SUMS: "hashes of all other files",
    SIGNATURE: "signature of the hashes",
    MANIFEST: "contract, files, golden vectors",
    CERTIFICATE: "every figure of the verification",
    PAGE: "the certificate as a page",
    CARD: "what the model is (--card prints it)",
    LICENCE: "the model's licence",
}


def _document(opened: Bundle) -> dict[str, Any]:
    certificate = {key: value for key, value in opened.certificate.document.items() if key != "rows"}
    return {
        "identity": opened.identity,
        "signed": opened.is_signed,
        "signed_by": opened.signed_by,
        "manifest": opened.manifest.to_json(),
        "certificate": certificate,
        "files": {name: len(data) for name, data in opened.files.items()},
    }
