"""Options that both commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Where its files lie; for 'folder', the images. Default: data/.", show_default=False
    ),
]
ImageSizeOption = Annotated[
    int | None,
    typer.Option("--image-size", help="For 'folder': side in pixels. Default: 28.", show_default=False),
]
DownloadOption = Annotated[bool, typer.Option("--download/--no-download", help="Fetch what is not there.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", help="CPU threads. Default: torch's, 4 at most.", show_default=False)
]
