"""`sample`, `decode`, `encode` and `reconstruct`: run a model over many rows.

The commands differ in their inputs. They share the options that choose the model, the machine and the output, and
`_run`, which computes and writes a piece at a time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vae_export.cli import console
from vae_export.cli.command import grouped, option_group
from vae_export.cli.options import (
    BundleOption,
    ForceOption,
    JsonOption,
    RayAddressOption,
    RunOption,
    SizeOption,
    VerifyKeyOption,
    chosen_run,
    out_option,
    refuse_together,
    require_bundle,
)
from vae_export.errors import UsageError
from vae_export.io.staging import check_free
from vae_export.session_options import CPU, SessionOptions, find_provider

if TYPE_CHECKING:
    from vae_export.artifact.folder import Package
    from vae_export.contract import Contract
    from vae_export.pipeline import Engine, Inputs, Operation, Task
    from vae_export.pipeline.writers import Shards, Writer

EngineName = Literal["local", "ray"]
ShardFormat = Literal["npy", "parquet"]


@option_group("Model")
class OpenOptions:
    """The model to run; at most one of the two is passed."""

    bundle: BundleOption = None
    verify_key: VerifyKeyOption = None
    run: RunOption = None

    def places(self) -> tuple[Path, Path]:
        """Return the bundle or export folder, and the folder that outputs go to by default."""
        refuse_together(bundle=self.bundle, run=self.run)
        require_bundle(self.verify_key, self.bundle)
        if self.bundle is not None:
            return self.bundle, self.bundle.absolute().parent
        chosen = chosen_run(self.run, exported=True)
        return chosen.export, chosen.folder


@option_group("Machine")
class MachineOptions:
    """The processes and threads that compute."""

    provider: Annotated[
        str | None,
        typer.Option("--provider", help="ONNX Runtime provider; an error where it is missing. Default: CPU."),
    ] = None
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads of a model. Default: all cores; with ray 1.")
    ] = None
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Rows of a call. Default: chosen by their size.")
    ] = None
    engine: Annotated[EngineName, typer.Option("--engine", help="This process, or Ray Data on a cluster.")] = "local"
    actors: Annotated[
        int, typer.Option("--actors", min=1, help="Processes of --engine ray, each with its own model.")
    ] = 2
    ray_address: RayAddressOption = None

    def path(self, path: Path) -> Path:
        """Return the path of an input as the reading process needs it: Ray's workers have their own working folders."""
        return path.absolute() if self.engine == "ray" else path


@option_group("Output")
class OutputOptions:
    """The files that are written."""

    out: Annotated[Path | None, out_option(None, "NAME.npz, or the folder for --shards.")] = None
    shards: Annotated[ShardFormat | None, typer.Option("--shards", help="Write a folder of such files.")] = None
    shard_rows: Annotated[
        int | None, typer.Option("--shard-rows", min=1, help="Rows of a shard. Default: as many as fit 64 MB.")
    ] = None
    force: ForceOption = False
    json: JsonOption = False


@option_group("Output")
class ImageOutputOptions(OutputOptions):
    """Images have other kinds of files than latents."""

    out: Annotated[
        Path | None, out_option(None, "NAME.png: one picture. NAME.npy: an array. NAME: a folder of PNG files.")
    ] = None


LevelsOption = Annotated[
    bool,
    typer.Option("--levels", help="Write images as 8-bit levels (uint8) instead of float32.", rich_help_panel="Output"),
]
FieldOption = Annotated[
    str | None,
    typer.Option(
        "--field",
        help="Array of an .npz or column of a .parquet file. Default: found by its name.",
        rich_help_panel="Data",
    ),
]
ImagesArgument = Annotated[
    Path, typer.Argument(help="Images: a file or folder of PNG, JPEG, …; .npy, .npz, .parquet; a folder of shards.")
]


ConditionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--condition",
        metavar="NAME=VALUE",
        help="Condition of all rows, such as label=3 or style=0.5,-1; or a file with a row for each: label=FILE.npy. "
        "Repeatable.",
        rich_help_panel="Data",
    ),
]


@option_group("Data")
class ImageOptions:
    """The options that say how images are read."""

    field: FieldOption = None
    fit: Annotated[
        bool, typer.Option("--fit", help="Crop, resize and convert to greyscale as needed; else an error.")
    ] = False
    condition: ConditionOption = None

    def read_from(self, path: Path, *parts: str) -> Callable[[Contract], Inputs]:
        """Return a function that opens the data, and the conditions of these parts, for a contract."""

        def read(contract: Contract) -> Inputs:
            from vae_export.pipeline.inputs import ConditionOptions, data_inputs

            return data_inputs(
                contract, path, self.field, ConditionOptions.parse(self.condition or ()), parts, fit=self.fit
            )

        return read


@grouped
def sample(
    *,
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="Number of samples.", rich_help_panel="Data")] = 64,
    seed: Annotated[
        int,
        typer.Option("--seed", help="0 to 2^64 - 1; gives the same latents on every machine.", rich_help_panel="Data"),
    ] = 0,
    size: SizeOption = None,
    condition: ConditionOption = None,
    model: OpenOptions,
    machine: MachineOptions,
    levels: LevelsOption = False,
    output: ImageOutputOptions,
) -> None:
    """Draw new images or other data: decode latents from the prior.

    A seed gives the same latents in every language (docs/bundle-format.md). Default output: samples.png beside the
    bundle, or in the run folder; samples.npy for data that is no image.
    """

    def read(contract: Contract) -> Inputs:
        from vae_export.pipeline.inputs import ConditionOptions, parse_sizes, prior_inputs

        return prior_inputs(contract, n, seed, parse_sizes(size or ()), ConditionOptions.parse(condition or ()))

    _run(_Work("decode", "sampled", read, levels=levels), model, machine, output, "samples.png")


@grouped
def decode(
    *,
    latents: Annotated[Path, typer.Argument(help="Latents: .npy, .npz, .parquet, or a folder of shards.")],
    field: FieldOption = None,
    condition: ConditionOption = None,
    model: OpenOptions,
    machine: MachineOptions,
    levels: LevelsOption = False,
    output: ImageOutputOptions,
) -> None:
    """Turn latents or codes into images or other data.

    Rows are read, computed and written a piece at a time, so inputs may be larger than memory. In a file that `encode`
    wrote, `mean` is decoded. Default output: decoded/ beside the bundle, or in the run folder; decoded.npy for data
    that is no image.
    """

    def read(contract: Contract) -> Inputs:
        from vae_export.pipeline.inputs import ConditionOptions, latent_inputs

        return latent_inputs(contract, machine.path(latents), field, ConditionOptions.parse(condition or ()))

    _run(_Work("decode", "decoded", read, reads=latents, levels=levels), model, machine, output, "decoded")


@grouped
def encode(
    *,
    images: ImagesArgument,
    data: ImageOptions,
    model: OpenOptions,
    machine: MachineOptions,
    output: OutputOptions,
) -> None:
    """Turn images or other data into latents.

    Latents are mean and log-variance, or what the encoder gives in their place. Image files are taken in the order of
    their paths. Arrays hold float32 in the model's range, or 8-bit levels as uint8. Default output: latents.npz (with
    --shards: latents/) beside the bundle, or in the run folder.
    """
    work = _Work("encode", "encoded", data.read_from(machine.path(images), "encoder"), reads=images)
    _run(work, model, machine, output, "latents.npz" if output.shards is None else "latents")


@grouped
def reconstruct(
    *,
    images: ImagesArgument,
    data: ImageOptions,
    model: OpenOptions,
    machine: MachineOptions,
    levels: LevelsOption = False,
    output: ImageOutputOptions,
) -> None:
    """Encode images or other data, and decode the result.

    The decoder takes the means, latents or codes that the encoder gives. In one picture (NAME.png) each image stands
    beside its reconstruction. Default output: reconstructions.png beside the bundle, or in the run folder;
    reconstructions.npy for data that is no image.
    """
    read = data.read_from(machine.path(images), "encoder", "decoder")
    work = _Work("reconstruct", "reconstructed", read, reads=images, levels=levels)
    _run(work, model, machine, output, "reconstructions.png")


@dataclass(frozen=True)
class _Work:
    """The work of one command.

    Attributes:
        job: the networks that the rows go through.
        verb: what was done, for messages.
        read: returns the rows, once the contract is known.
        reads: the path of the rows, which must not be overwritten.
        levels: whether images are written as 8-bit levels.
    """

    job: Operation
    verb: str
    read: Callable[[Contract], Inputs]
    reads: Path | None = None
    levels: bool = False


def _run(work: _Work, model: OpenOptions, machine: MachineOptions, output: OutputOptions, default: str) -> None:
    """Compute the rows, publish the output and print what was done; `default` is the name of the output."""
    if output.shards is None and output.shard_rows is not None:
        raise UsageError("--shard-rows goes with --shards", expected="--shards npy or --shards parquet")
    place, home = model.places()
    out = home / default if output.out is None else output.out
    if work.reads is not None and work.reads.resolve().is_relative_to(out.resolve()):  # it, or a folder that holds it
        do = "choose another --out"
        raise UsageError("the input would be overwritten", where=work.reads, got=f"--out {out}", do=do)
    if output.shards is None:
        _check_kind(work.job, out)
    if work.reads is not None and not work.reads.exists():
        from vae_export.pipeline.readers.open import missing

        raise missing(work.reads)
    check_free(out, force=output.force)

    from vae_export.pipeline import LocalEngine, Task, split_into_chunks
    from vae_export.pipeline.run import run_pipeline
    from vae_export.runtime import Model, open_package

    provider, threads = find_provider(machine.provider or CPU), machine.threads
    package = open_package(place, verify_key=model.verify_key)
    contract = package.manifest.contract
    if output.shards is None and work.job != "encode" and not contract.is_image:
        out = _array_file(out, contract, output)
    opened = Model(package, provider=provider, threads=threads, batch_size=machine.batch_size)
    levels = work.levels or (output.shards is None and out.suffix.lower() in (".png", ""))  # pictures hold 8-bit levels
    include_input = output.shards is None and out.suffix.lower() == ".png" and work.job == "reconstruct"
    task = Task(work.job, work.read(contract), levels=levels, include_input=include_input)
    chunks = split_into_chunks(task, opened, rows=output.shard_rows)
    options = SessionOptions(provider, threads)
    engine = (
        LocalEngine(opened, threads or os.cpu_count() or 1)
        if machine.engine == "local"
        else _ray(task, package, options, machine)
    )
    rows, started = task.reader.rows, time.perf_counter()
    with console.report_progress(work.verb, rows) as report:
        run_pipeline(engine, task, chunks, _open_writer(out, task, contract, output), report)
    seconds = time.perf_counter() - started
    if output.json:
        result = {"out": str(out), "rows": rows, "engine": machine.engine}
        console.result_json(result | {"seconds": seconds, "rows_per_second": rows / seconds})
        return
    console.result(f"{work.verb} {rows:,} in {seconds:.1f} s, {rows / seconds:,.0f}/s: {out}")


def _ray(task: Task, package: Package, options: SessionOptions, machine: MachineOptions) -> Engine:
    from vae_export.pipeline import ModelPayload
    from vae_export.pipeline.ray.engine import RayEngine

    address = machine.ray_address or os.environ.get("RAY_ADDRESS") or None
    payload = ModelPayload.of(package, task.parts, options, machine.batch_size)
    return RayEngine(payload, machine.actors, address, console.message)


def _check_kind(job: Operation, out: Path) -> None:
    """Raise `UsageError` unless the name of the output stands for a kind that the command can write."""
    suffixes = (".npz",) if job == "encode" else (".png", ".npy", "")
    if out.suffix.lower() not in suffixes:
        expected = " | ".join(f"NAME{suffix}" for suffix in suffixes) + ", or --shards"
        raise UsageError("unknown type of output", where=out, expected=expected, got=out.suffix or "none")
    if out.suffix and out.is_dir():
        raise UsageError("output path is a folder", where=out, do="choose another --out")


def _array_file(out: Path, contract: Contract, output: OutputOptions) -> Path:
    """Return the .npy file for data that is no image of 1 to 4 channels, which no picture can show.

    Raises:
        UsageError: --out asks for pictures, or the file exists.
    """
    if out.suffix.lower() == ".npy":
        return out
    if output.out is not None:
        expected = "NAME.npy, or --shards"
        raise UsageError("data cannot be written as pictures", where=out, expected=expected, got=str(contract.output))
    array = out.with_suffix(".npy")
    check_free(array, force=output.force)
    console.message(f"{contract.output} is no image of 1 to 4 channels: the output is the array {array.name}")
    return array


def _open_writer(
    out: Path, task: Task, contract: Contract, output: OutputOptions
) -> AbstractContextManager[Writer | Shards]:
    """Return the writer of the kind of output that --shards or its name stands for."""
    from vae_export.pipeline import writers

    rows, outputs, force = task.reader.rows, task.outputs(contract), output.force
    if output.shards is not None:
        return writers.shard_folder(out, output.shards, rows, outputs, force=force)
    match out.suffix.lower():
        case ".npz":
            return writers.npz_file(out, rows, outputs, force=force)
        case ".npy":
            return writers.npy_file(out, rows, outputs, force=force)
        case ".png":
            item, _ = next(iter(outputs.values()))
            return writers.grid(out, rows, item, tuple(outputs), force=force)
        case _:
            (name, (item, _)), *_ = outputs.items()
            return writers.picture_folder(out, name, item[0], force=force)
