"""`sample`: new images."""

from __future__ import annotations

from typing import Annotated

import typer

from vae_export.cli.batch import Batch, execute
from vae_export.cli.options import (
    ActorsOption,
    BatchSizeOption,
    BundleOption,
    EngineOption,
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


def sample(
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="How many images.")] = 64,
    seed: Annotated[int, typer.Option("--seed", help="0 to 2^64 - 1; the same images on every machine.")] = 0,
    out: ImageOutOption = None,
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
    """Draw new images: latents from N(0, I), decoded.

    A seed gives the same latents in every language (docs/bundle-format.md). Default output: samples.png beside the
    bundle, or in the run folder.
    """
    from vae_export.sources import Prior

    options = Batch(
        bundle, run, provider, threads, batch_size,
        out, shards, shard_rows, levels, engine, actors, ray_address, force, json,
    )  # fmt: skip
    execute("decode", options, "samples.png", "sampled", lambda model: Prior(n, seed, model.contract.latent_shape))
