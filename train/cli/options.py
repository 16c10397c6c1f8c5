"""Options that `train` and `evaluate` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from train.config import DataOptions, DataProtocol, DatasetName, DeviceName, InMemory
from vae_export.cli.command import option_group


@option_group("Data")
class ImageFileFlags:
    """The files of a data set: the fields of `DataOptions` that do not depend on what is done with the images."""

    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir",
            metavar="FOLDER",
            help="Folder of the data set's files; with --dataset folder, of the images. Default: data/.",
        ),
    ] = DataOptions.folder
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size",
            help="With --dataset folder: side of an image in pixels. Default: 64, or 32 or 28 for smaller ones.",
        ),
    ] = DataOptions.image_size
    skip_unreadable: Annotated[
        bool,
        typer.Option(
            "--skip-unreadable",
            help="With --dataset folder: leave out files that cannot be read, and name them.",
        ),
    ] = DataOptions.skip_unreadable
    in_memory: Annotated[
        InMemory,
        typer.Option(
            "--in-memory",
            help="With --dataset folder: hold pixels in memory, or (no) in a temporary file below TMPDIR, by default "
            "/var/tmp. auto: in memory where they fit.",
        ),
    ] = DataOptions.in_memory
    download: Annotated[bool, typer.Option("--download/--no-download", help="Download missing files.")] = (
        DataOptions.download
    )

    def options(self, name: DatasetName, protocol: DataProtocol) -> DataOptions:
        """Return the options of the data set with this name, whose pixels follow the protocol."""
        files = vars(self).copy()
        return DataOptions(name, files.pop("data_dir"), protocol=protocol, **files)


ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", help="CPU threads. Default: at most 4; in training, the fastest number.", rich_help_panel="Machine"
    ),
]
DeviceOption = Annotated[
    DeviceName,
    typer.Option("--device", help="auto: cuda or mps where there is one, else cpu.", rich_help_panel="Machine"),
]
