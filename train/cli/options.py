"""Options that `train` and `evaluate` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from train.config import DeviceName

DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="FOLDER",
        help="Folder of the data set's files; with --dataset folder, of the images. Default: data/.",
        rich_help_panel="Data",
    ),
]
ImageSizeOption = Annotated[
    int | None,
    typer.Option(
        "--image-size",
        help="With --dataset folder: side of an image in pixels. Default: 64, or 32 or 28 for smaller ones.",
        rich_help_panel="Data",
    ),
]
SkipUnreadableOption = Annotated[
    bool,
    typer.Option(
        "--skip-unreadable",
        help="With --dataset folder: leave out files that cannot be read, and name them.",
        rich_help_panel="Data",
    ),
]
DownloadOption = Annotated[
    bool, typer.Option("--download/--no-download", help="Download missing files.", rich_help_panel="Data")
]
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
