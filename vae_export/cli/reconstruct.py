"""`reconstruct`: images to images."""

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
    ImageOutOption,
    JsonOption,
    LevelsOption,
    ProviderOption,
    RayAddressOption,
    RunOption,
    ShardRowsOption,
    ShardsOption,
    ThreadsOption,
)


def reconstruct(
    images: Annotated[
        Path, typer.Argument(help="Images: a file or folder of PNG, JPEG, …; .npy, .npz, .parquet; a folder of shards.")
    ],
    out: ImageOutOption = None,
    field: FieldOption = None,
    fit: FitOption = False,
    shards: ShardsOption = None,
    shard_rows: ShardRowsOption = None,
    levels: LevelsOption = False,
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
    """Encode images and decode their means: what the model keeps of them.

    One picture (NAME.png) has each image and its reconstruction beside each other. Default output:
    reconstructions.png beside the bundle, or in the run folder.
    """
    from vae_export.sources import open_images

    options = Batch(
        bundle, run, provider, threads, batch_size,
        out, shards, shard_rows, levels, engine, actors, ray_address, force, json,
    )  # fmt: skip
    execute(
        "reconstruct",
        options,
        "reconstructions.png",
        "reconstructed",
        lambda model: open_images(options.seen(images), model.contract.spec("encoder").inputs[0], field=field, fit=fit),
        reads=images,
    )
