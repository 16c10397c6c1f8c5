"""`decode`: latents to images."""

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


def decode(
    latents: Annotated[Path, typer.Argument(help="Latents: .npy, .npz, .parquet, or a folder of shards.")],
    out: ImageOutOption = None,
    field: FieldOption = None,
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
    """Turn latents into images.

    Rows are read, computed and written a piece at a time: inputs larger than memory are fine. Of an encoder's outputs,
    `mean` is decoded. Default output: decoded/ beside the bundle, or in the run folder.
    """
    from vae_export.sources import open_latents

    options = Batch(
        bundle, run, provider, threads, batch_size,
        out, shards, shard_rows, levels, engine, actors, ray_address, force, json,
    )  # fmt: skip
    execute(
        "decode",
        options,
        "decoded",
        "decoded",
        lambda model: open_latents(options.seen(latents), model.contract.spec("decoder").inputs[0], field=field),
        reads=latents,
    )
