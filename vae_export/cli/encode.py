"""`encode`: images to latents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vae_export.cli.batch import Batch, execute
from vae_export.cli.options import (
    ActorsOption,
    BatchSizeOption,
    BundleOption,
    EngineOption,
    FieldOption,
    FitOption,
    ForceOption,
    JsonOption,
    ProviderOption,
    RayAddressOption,
    RunOption,
    ShardRowsOption,
    ShardsOption,
    ThreadsOption,
)


def encode(
    images: Annotated[
        Path, typer.Argument(help="Images: a file or folder of PNG, JPEG, …; .npy, .npz, .parquet; a folder of shards.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="NAME.npz, or the folder for --shards.", show_default=False)
    ] = None,
    field: FieldOption = None,
    fit: FitOption = False,
    shards: ShardsOption = None,
    shard_rows: ShardRowsOption = None,
    bundle: BundleOption = None,
    run: RunOption = None,
    provider: ProviderOption = None,
    threads: ThreadsOption = None,
    batch_size: BatchSizeOption = None,
    engine: EngineOption = "local",
    actors: ActorsOption = 2,
    ray_address: RayAddressOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Turn images into latents: the mean and the log-variance of each.

    Image files are taken in the order of their paths. Arrays hold float32 in the model's range, or 8-bit levels as
    uint8. Default output: latents.npz (with --shards: latents/) beside the bundle, or in the run folder.
    """
    from vae_export.sources import open_images

    options = Batch(
        bundle, run, provider, threads, batch_size,
        out, shards, shard_rows, False, engine, actors, ray_address, force, json,
    )  # fmt: skip
    execute(
        "encode",
        options,
        "latents.npz" if shards is None else "latents",
        "encoded",
        lambda model: open_images(options.seen(images), model.contract.spec("encoder").inputs[0], field=field, fit=fit),
        reads=images,
    )
