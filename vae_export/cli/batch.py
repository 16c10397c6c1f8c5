"""What `sample`, `decode`, `encode` and `reconstruct` share: which model, how it runs, where the outputs go."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vae_export.cli import console
from vae_export.cli.options import chosen_run
from vae_export.errors import UsageError
from vae_export.staging import check_free

if TYPE_CHECKING:
    from vae_export.artifact import Package
    from vae_export.engines import Engine, Job, Settings, Task
    from vae_export.runtime import Model
    from vae_export.sinks import Shards, Writer
    from vae_export.sources import Source

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
    job: Job, options: Batch, default: str, verb: str, source: Callable[[Model], Source], reads: Path | None = None
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

    from vae_export.engines import LocalEngine, Settings, Task, cut
    from vae_export.engines.flow import flow
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
        flow(engine, task, pieces, _sink(kind, out, task, model, options), report)
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
    from vae_export import sinks

    outputs, rows, force = task.outputs(model.contract), task.source.rows, options.force
    names, image = tuple(outputs), model.contract.image_shape
    match kind:
        case "shards":
            return sinks.shard_folder(out, "npy" if options.shards == "npy" else "parquet", rows, outputs, force=force)
        case "grid":
            return sinks.grid(out, rows, image, names, force=force)
        case "folder":
            return sinks.picture_folder(out, names[0], image[0], force=force)
        case "npy":
            return sinks.npy_file(out, rows, outputs, force=force)
    return sinks.npz_file(out, rows, outputs, force=force)


def _ray(task: Task, package: Package, settings: Settings, options: Batch) -> Engine:
    from vae_export.engines import Parcel
    from vae_export.engines.ray import RayEngine

    address = options.address or os.environ.get("RAY_ADDRESS") or None
    return RayEngine(Parcel.of(package, task.parts, settings), options.actors, address, console.message)


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
