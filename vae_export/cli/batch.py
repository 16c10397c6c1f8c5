"""What `sample`, `decode`, `encode` and `reconstruct` share: which model, how it runs, where the outputs go.

`sample`: new images.

`decode`: latents to images.

`encode`: images to latents.

`reconstruct`: images to images.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vae_export.cli import console
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
    chosen_run,
)
from vae_export.errors import UsageError
from vae_export.io.staging import check_free

if TYPE_CHECKING:
    from vae_export.artifact.folder import Package
    from vae_export.pipeline import Engine, Job, Settings, Task
    from vae_export.pipeline.readers import Reader
    from vae_export.pipeline.writers import Shards, Writer
    from vae_export.runtime import Model

ENGINES = ("local", "ray")
SHARDS = ("npy", "parquet")
#: Seconds between two plain lines of progress.
_INTERVAL = 10.0


@dataclass(frozen=True)
class Batch:
    """Options of the command line.

    Attributes:
    bundle, run: which model; at most one of them.
    provider, threads, batch_size: how it runs.
    out, shards, shard_rows, levels: what is written, and where.
    engine, actors, address: who computes.
    force, json: as everywhere.
    """

    bundle: Path | None
    run: Path | None
    provider: str | None
    threads: int | None
    batch_size: int | None
    out: Path | None
    shards: str | None
    shard_rows: int | None
    levels: bool
    engine: str
    actors: int
    address: str | None
    force: bool
    json: bool

    def home(self) -> tuple[Path, Path]:
        """The bundle or the export folder, and the folder that outputs go to."""
        if self.bundle is not None and self.run is not None:
            raise UsageError("--bundle and --run exclude each other", do="name one of them")
        if self.bundle is not None:
            return self.bundle, self.bundle.absolute().parent
        chosen = chosen_run(self.run)
        return chosen.export, chosen.folder

    def seen(self, path: Path) -> Path:
        """The path of an input as those see it who read it: workers of a cluster have working folders of their own."""
        return path.absolute() if self.engine == "ray" else path

    def check(self) -> None:
        """Raise `UsageError` for options that make no sense, before anything is read."""
        if self.engine not in ENGINES:
            raise UsageError("unknown engine", expected=" | ".join(ENGINES), got=self.engine)
        if self.shards is not None and self.shards not in SHARDS:
            raise UsageError("unknown format of shards", expected=" | ".join(SHARDS), got=self.shards)
        if self.shards is None and self.shard_rows is not None:
            raise UsageError("--shard-rows goes with --shards", expected=" | ".join(SHARDS))


def execute(
    job: Job, options: Batch, default: str, verb: str, source: Callable[[Model], Reader], reads: Path | None = None
) -> None:
    """Compute, publish, print.

    Args:
        job: which networks the rows go through.
        options: as they were typed.
        default: the name of the output, in the run's or the bundle's folder.
        verb: what was done, for a person.
        source: gives the rows, when the model is known.
        reads: the path that the rows come from, which must not be written over.
    """
    options.check()
    place, home = options.home()
    out = options.out if options.out is not None else home / default
    if reads is not None and reads.resolve().is_relative_to(out.resolve()):  # it, or the folder that it lies in
        raise UsageError("the input would be overwritten", where=reads, got=f"--out {out}", do="choose another --out")
    kind = _kind(job, out, options)
    check_free(out, force=options.force)

    from vae_export.pipeline import LocalEngine, Settings, Task, cut
    from vae_export.pipeline.run import run_pipeline
    from vae_export.runtime import open_package
    from vae_export.runtime.session import CPU

    settings = Settings(options.provider or CPU, options.threads, options.batch_size)
    package = open_package(place)
    model = settings.model(package)
    pictures = kind in ("grid", "folder")
    beside = job == "reconstruct" and kind == "grid"
    task = Task(job, source(model), levels=options.levels or pictures, beside=beside)
    pieces = cut(task, model, rows=options.shard_rows)
    engine = LocalEngine(model) if options.engine == "local" else _ray(task, package, settings, options)
    started = time.perf_counter()
    with _report(verb, task.source.rows) as report:
        run_pipeline(engine, task, pieces, _sink(kind, out, task, model, options), report)
    seconds = time.perf_counter() - started
    rows = task.source.rows
    if options.json:
        console.result_json(
            {
                "out": str(out),
                "rows": rows,
                "engine": options.engine,
                "seconds": seconds,
                "rows_per_second": rows / seconds,
            }
        )
        return
    console.result(f"{verb} {rows:,} in {seconds:.1f} s, {rows / seconds:,.0f}/s: {out}")


def _kind(job: Job, out: Path, options: Batch) -> str:
    """What is written: `shards`, `grid`, `npy`, `npz` or `folder`, by the name of the output."""
    if options.shards is not None:
        return "shards"
    kinds = {".npz": "npz"} if job == "encode" else {".png": "grid", ".npy": "npy", "": "folder"}
    if out.suffix not in kinds:
        names = " | ".join(f"NAME{suffix}" for suffix in kinds)
        raise UsageError(
            "unknown kind of output", where=out, expected=f"{names}, or --shards", got=out.suffix or "none"
        )
    kind = kinds[out.suffix]
    if kind != "folder" and out.is_dir():
        raise UsageError("a folder is in the way", where=out, do="choose another --out")
    return kind


def _sink(kind: str, out: Path, task: Task, model: Model, options: Batch) -> AbstractContextManager[Writer | Shards]:
    from vae_export.pipeline import writers

    outputs, rows, force = task.outputs(model.contract), task.source.rows, options.force
    names, image = tuple(outputs), model.contract.image_shape
    match kind:
        case "shards":
            return writers.shard_folder(
                out, "npy" if options.shards == "npy" else "parquet", rows, outputs, force=force
            )
        case "grid":
            return writers.grid(out, rows, image, names, force=force)
        case "folder":
            return writers.picture_folder(out, names[0], image[0], force=force)
        case "npy":
            return writers.npy_file(out, rows, outputs, force=force)
    return writers.npz_file(out, rows, outputs, force=force)


def _ray(task: Task, package: Package, settings: Settings, options: Batch) -> Engine:
    from vae_export.pipeline import ModelPayload
    from vae_export.pipeline.ray.engine import RayEngine

    address = options.address or os.environ.get("RAY_ADDRESS") or None
    return RayEngine(ModelPayload.of(package, task.parts, settings), options.actors, address, console.message)


@contextmanager
def _report(verb: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, a plain line now and then elsewhere."""
    started = spoken = time.perf_counter()
    with console.progress() as bar:
        task = bar.add_task(verb, total=total, note="")

        def report(done: int) -> None:
            nonlocal spoken
            now = time.perf_counter()
            speed = f"{done / (now - started):,.0f}/s"
            bar.update(task, completed=done, note=speed)
            if bar.disable and now - spoken > _INTERVAL:
                spoken = now
                console.message(f"{verb} {done:,} of {total:,}, {speed}")

        yield report


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
    from vae_export.pipeline.readers import PriorReader

    options = Batch(
        bundle, run, provider, threads, batch_size,
        out, shards, shard_rows, levels, engine, actors, ray_address, force, json,
    )  # fmt: skip
    execute(
        "decode", options, "samples.png", "sampled", lambda model: PriorReader(n, seed, model.contract.latent_shape)
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
    from vae_export.pipeline.readers import open_latents

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
    from vae_export.pipeline.readers import open_images

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
    from vae_export.pipeline.readers import open_images

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
