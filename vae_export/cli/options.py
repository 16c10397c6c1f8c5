"""Options that several commands share, so that they look and read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vae_export.cli import console
from vae_export.errors import UsageError
from vae_export.runs import Run, newest_run

if TYPE_CHECKING:
    from vae_export.parity import Budget

RunOption = Annotated[
    Path | None, typer.Option("--run", help="Run folder. Default: the newest under artifacts/.", show_default=False)
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

# What files may cost.
MaxGreyLevelsOption = Annotated[
    float | None,
    typer.Option(
        "--max-grey-levels", help="Fail if a pixel is further from float64, in 8-bit levels.", show_default=False
    ),
]
MaxNatsOption = Annotated[
    float | None,
    typer.Option(
        "--max-nats",
        help="Fail if the -ELBO may be worse by more (upper end of its 95 % interval).",
        show_default=False,
    ),
]

# Of the commands that run a model.
BundleOption = Annotated[
    Path | None, typer.Option("--bundle", help="Bundle file, in place of a run.", show_default=False)
]
ProviderOption = Annotated[
    str | None,
    typer.Option("--provider", help="ONNX Runtime provider; used or refused.", show_default="CPUExecutionProvider"),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Threads of a model. Default: all cores; 1 an actor.", show_default=False),
]
BatchSizeOption = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Rows at a time. Default: by their size.", show_default=False)
]
ShardsOption = Annotated[
    str | None,
    typer.Option("--shards", metavar="npy|parquet", help="Write a folder of such files.", show_default=False),
]
ShardRowsOption = Annotated[
    int | None, typer.Option("--shard-rows", min=1, help="Rows of a shard. Default: 64 MB.", show_default=False)
]
LevelsOption = Annotated[bool, typer.Option("--levels", help="Images as 8-bit levels (uint8), not float32.")]
FieldOption = Annotated[
    str | None,
    typer.Option(
        "--field", help="Which array of an .npz or column of a .parquet. Default: by name.", show_default=False
    ),
]
FitOption = Annotated[bool, typer.Option("--fit", help="Cut, resize and make grey what does not fit; else refuse it.")]
EngineOption = Annotated[
    str, typer.Option("--engine", metavar="local|ray", help="This process, or Ray Data on a cluster.")
]
ActorsOption = Annotated[int, typer.Option("--actors", min=1, help="Processes of --engine ray, a model in each.")]
RayAddressOption = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        help="HOST:PORT of a cluster. Default: RAY_ADDRESS, else one is started here.",
        show_default=False,
    ),
]
ImageOutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", help="NAME.png: one picture. NAME.npy: an array. NAME: a folder of PNG files.", show_default=False
    ),
]


def chosen_run(folder: Path | None) -> Run:
    """The run that was named, or the newest one, and which one that is said on stderr."""
    if folder is not None:
        if not folder.is_dir():
            raise UsageError("no such run", where=folder, expected="a folder made by python cli.py train")
        return Run(folder)
    run = newest_run()
    console.message(f"run: {run.folder}")
    return run


def budget_of(max_grey_levels: float | None, max_nats: float | None) -> Budget | None:
    """What files may cost; None where nothing was said. Raises `UsageError` for what is no amount."""
    if max_grey_levels is None and max_nats is None:
        return None
    from vae_export.parity import Budget

    return Budget(max_grey_levels, max_nats)
