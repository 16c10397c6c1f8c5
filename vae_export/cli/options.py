"""Options that several commands share: they read the same and stand in the same section of the help everywhere."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vae_export.artifact.manifest import MANIFEST
from vae_export.cli import console
from vae_export.cli.command import option_group
from vae_export.errors import UsageError
from vae_export.io.staging import check_file_free
from vae_export.runs import ARTIFACTS, Run, newest_run

if TYPE_CHECKING:
    from vae_export.contract import Contract
    from vae_export.parity import Budget
    from vae_export.sources import NamedModel, Source

#: The choice that stands for all others of `choices_option`.
ALL = "all"

RunOption = Annotated[
    Path | None,
    typer.Option(
        "--run", metavar="FOLDER", help="Run folder. Default: the newest in artifacts/.", rich_help_panel="Model"
    ),
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option("--checkpoint", metavar="FILE", help="Checkpoint file. Default: the run's.", rich_help_panel="Model"),
]
ExportOption = Annotated[
    Path | None,
    typer.Option("--export", metavar="FOLDER", help="Export folder. Default: the run's.", rich_help_panel="Model"),
]
BundleOption = Annotated[
    Path | None,
    typer.Option(
        "--bundle", metavar="FILE", help="Bundle, made by `bundle`, in place of a run.", rich_help_panel="Model"
    ),
]
VerifyKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--verify-key",
        metavar="FILE",
        help="Public key (Ed25519, PEM) of whoever must have signed the bundle.",
        rich_help_panel="Model",
    ),
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="HOST:PORT",
        help="Ray cluster. Default: RAY_ADDRESS; without it a cluster is started here.",
    ),
]
SizeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--size",
        metavar="NAME=NUMBER",
        help="Value of an open size of the contract, such as h=32. Repeatable. Default: the usual one.",
        rich_help_panel="Data",
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an output that exists.", rich_help_panel="Output")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel="Output")]


@option_group("Budget")
class BudgetOptions:
    """The allowed degradation."""

    max_grey_levels: Annotated[
        float | None,
        typer.Option("--max-grey-levels", help="Largest allowed difference of a pixel from float64, in 8-bit levels."),
    ] = None
    max_nats: Annotated[
        str | None,
        typer.Option(
            "--max-nats",
            metavar="X|X%",
            help="Largest allowed increase of the -ELBO, at the upper end of its 95 % interval: in nats per image, or "
            "as a share of the -ELBO that the training recorded, such as 0.1%.",
        ),
    ] = None
    max_bits_per_dim: Annotated[
        float | None,
        typer.Option("--max-bits-per-dim", help="The same, in bits for each value of each pixel."),
    ] = None

    def __post_init__(self) -> None:
        self._nats()  # a bad number is refused before anything is loaded
        check_limit("max-bits-per-dim", self.max_bits_per_dim)

    def budget(self, contract: Contract, provenance: Mapping[str, Any]) -> Budget | None:
        """Return the allowed degradation, None where no limit was passed.

        Args:
            contract: of the model, whose data's size decides what a bit per dimension is.
            provenance: of the model, which may have the -ELBO of its test images.

        Raises:
            UsageError: a bad number, or a share where no -ELBO was recorded.
        """
        if self.max_grey_levels is None and self.max_nats is None and self.max_bits_per_dim is None:
            return None
        from vae_export.parity.degradation import Budget, nats_of_bits

        limits = []
        if (asked := self._nats()) is not None:
            nats, is_share = asked
            limits.append(nats * abs(_recorded_negative_elbo(provenance)) if is_share else nats)
        if self.max_bits_per_dim is not None:
            limits.append(nats_of_bits(self.max_bits_per_dim, math.prod(contract.at().data.fixed_item)))
        return Budget(self.max_grey_levels, min(limits, default=None))

    def _nats(self) -> tuple[float, bool] | None:
        """Return the number of --max-nats, and whether it is a share of the -ELBO."""
        if self.max_nats is None:
            return None
        text = self.max_nats.strip()
        try:
            number = float(text.removesuffix("%"))
        except ValueError:
            raise UsageError("bad max-nats", expected="nats such as 0.1, or a share such as 0.1%", got=text) from None
        check_limit("max-nats", number)
        return (number / 100, True) if text.endswith("%") else (number, False)


def check_limit(name: str, value: float | None) -> None:
    """Raise `UsageError` for a limit that is negative or not finite."""
    if value is not None and not 0 <= value < math.inf:
        raise UsageError(f"bad {name}", expected="a number from 0 up", got=value)


def _recorded_negative_elbo(provenance: Mapping[str, Any]) -> float:
    """Return the -ELBO of the test images, in nats per image, that a training of ours recorded."""
    try:
        return float(provenance.get("training", {})["scores"]["test"]["negative_elbo_nats_per_image"])
    except (LookupError, TypeError, ValueError) as error:
        do = "pass nats such as --max-nats 0.1, or --max-bits-per-dim"
        raise UsageError("a share of the -ELBO needs a model that states its own", do=do) from error


@option_group("Model")
class NamedModelOptions:
    """A model that is not from a run, and what is stated about it. What is not stated is inferred and shown."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="diffusers:FOLDER, pythae:FOLDER, package.module:function or file.py:function, in place of a run.",
        ),
    ] = None
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights",
            metavar="FILE",
            help="Weights for a function's modules: .safetensors, .pt, .ckpt. Also encoder=FILE and decoder=FILE.",
        ),
    ] = None
    weights_key: Annotated[
        str | None, typer.Option("--weights-key", metavar="KEY", help="Entry of --weights to read, such as ema.")
    ] = None
    data_shape: Annotated[
        str | None,
        typer.Option(
            "--data-shape", metavar="SHAPE", help="Shape of one row of the data: 3x64x64, or 3x8*hx8*w with free sizes."
        ),
    ] = None
    latent_shape: Annotated[
        str | None,
        typer.Option(
            "--latent-shape",
            metavar="SHAPE",
            help="Shape of one row of the latent: 128, or 4x8x8. Several latents: z1=8,z2=4x8x8.",
        ),
    ] = None
    data_range: Annotated[
        str | None, typer.Option("--data-range", metavar="LOW,HIGH", help="Range of the data: 0,1 or -1,1, or none.")
    ] = None
    encoder_outputs: Annotated[
        str | None,
        typer.Option(
            "--encoder-outputs", metavar="WORDS", help="What the encoder returns, in order: latent,mean,logvar."
        ),
    ] = None
    decoder_output: Annotated[
        str | None,
        typer.Option(
            "--decoder-output", metavar="NAME", help="The data in what the decoder returns: px_rate, 0, dist.mean."
        ),
    ] = None
    condition: Annotated[
        list[str] | None,
        typer.Option(
            "--condition",
            metavar="NAME:DTYPE:SIZE",
            help="Further input: label:int64:10, label:int64:1..10 or style:float32:16. Repeatable.",
        ),
    ] = None
    codes: Annotated[int | None, typer.Option("--codes", help="Number of codes, where the encoder gives codes.")] = None
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", min=2, help="Number of tokens, where the data is integers, such as tokens of text."),
    ] = None

    def named(self, **excluded: object) -> NamedModel | None:
        """Return the model, None without --model.

        Args:
            excluded: options that --model goes without, by their names with underscores.

        Raises:
            UsageError: one of them was passed too, or an option needs --model.
        """
        stated = {name: value for name, value in vars(self).items() if name != "model" and value is not None}
        if self.model is None:
            if stated:
                raise UsageError(f"--{next(iter(stated)).replace('_', '-')} needs --model")
            return None
        refuse_together(model=self.model, **excluded)
        from vae_export.sources.load import NamedModel

        return NamedModel(
            self.model,
            weights=tuple(self.weights or ()),
            weights_key=self.weights_key,
            data_shape=self.data_shape,
            latent_shape=self.latent_shape,
            data_range=self.data_range,
            encoder_outputs=self.encoder_outputs,
            decoder_output=self.decoder_output,
            conditions=tuple(self.condition or ()),
            codes=self.codes,
            tokens=self.tokens,
        )


def opened(model: NamedModel) -> Source:
    """Return the source of a model, and print what was found about it on stderr."""
    source = model.open()
    contract = source.contract
    tensors = [contract.data, *contract.latents, *(condition.tensor for condition in contract.conditions)]
    if contract.output != contract.data:
        tensors.append(contract.output)
    facts = [*map(str, tensors), *([] if source.encoder is None else [f"encoder: {contract.encoding}"])]
    for note in source.provenance.get("notes", ()):
        console.message(note)
    console.message(f"model: {source.provenance.get('class', model.text)}; {'; '.join(facts)}")
    return source


@option_group("Verification")
class EffortOptions:
    """The time that a verification may take."""

    verify_minutes: Annotated[
        float,
        typer.Option(
            "--verify-minutes",
            help="Minutes for each part and format. Costly networks get fewer test cases; the certificate says so.",
        ),
    ] = 1.0
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Every test case, however much time and memory it takes.")
    ] = False

    @property
    def minutes(self) -> float | None:
        """The minutes for each part and format, None for no limit."""
        return None if self.thorough else self.verify_minutes


def out_option(metavar: str | None, help: str) -> Any:
    """Return the option --out of a command; its help names the default."""
    return typer.Option("--out", metavar=metavar, help=help, rich_help_panel="Output")


def check_document_free(path: Path, kind: str, *, force: bool) -> None:
    """Raise `UsageError` unless a JSON document can be written to `path`, and a page beside it.

    Args:
        path: the path of the document.
        kind: what its format begins with, such as "vae-export-certificate": only such a document is replaced.
        force: whether it may be replaced.
    """
    if path.suffix != ".json":
        raise UsageError("--out is for the JSON; the page goes beside it", where=path, expected="a name in .json")
    page = path.with_suffix(".html")
    for place in (path, page):
        check_file_free(place, force=force)
    if path.exists() and not _is_document(path, kind):
        what, do = "--force does not replace a file of another kind", "choose another --out"
        raise UsageError(what, where=path, expected=f"a document of the format {kind}", do=do)
    if page.exists() and not path.exists():
        what, do = "--force does not replace a page of another kind", "choose another --out"
        raise UsageError(what, where=page, expected=f"a page beside its {path.name}", do=do)


def _is_document(path: Path, kind: str) -> bool:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and str(document.get("format")).startswith(f"{kind}/")


def run_of(model: NamedModel) -> Run:
    """Return the run folder of a model by its name, artifacts/<name>."""
    return Run(ARTIFACTS / model.name)


def chosen_run(folder: Path | None, *, exported: bool = False) -> Run:
    """Return the run in a folder, or the newest run, whose name is then printed on stderr.

    Args:
        folder: the run folder; None takes the newest run.
        exported: whether the newest run that has an export is taken, if there is one.

    Returns:
        The run.

    Raises:
        UsageError: the folder does not exist, or there is no run.
    """
    if folder is not None:
        if not folder.is_dir():
            raise UsageError("no such run", where=folder, expected="a folder made by python cli.py train")
        return Run(folder)
    newest = newest_run()
    run = newest_run(exported=MANIFEST) if exported else newest
    newer = "" if run == newest else f"; {newest.folder} is newer and has no export"
    console.message(f"run: {run.folder}{newer}")
    return run


def refuse_together(**options: object) -> None:
    """Raise `UsageError` if more than one of these options, by their names with underscores, was passed."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value not in (None, False)]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other", do="name one of them")


def require_bundle(verify_key: Path | None, bundle: Path | None) -> None:
    """Raise `UsageError` if --verify-key was passed without --bundle: only bundles are signed."""
    if verify_key is not None and bundle is None:
        raise UsageError("--verify-key goes with --bundle", where=verify_key, do="name the signed bundle")
