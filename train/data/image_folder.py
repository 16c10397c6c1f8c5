"""A folder of images of any size, brought to one: uint8 (N, C, S, S), grey if all of them are.

Files are taken in the order of their paths, those of subfolders too; names that begin with a dot are left out. Of each
image the middle square is cut out and resized.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vae_export.cli.console import progress
from vae_export.errors import DataError
from vae_export.io.image_files import IMAGE_FORMATS, find_images, read_image

#: Of all images together, in memory.
MAX_BYTES = 8 << 30


def read_folder(folder: Path, size: int) -> Tensor:
    """All images below `folder` as uint8 (N, C, size, size); C is 1 if all are grey, else 3. Raises `DataError`."""
    if not folder.is_dir():
        raise DataError("no such folder", where=folder, do="say where the images are: --data-dir FOLDER")
    files = find_images(folder)
    if not files:
        raise DataError(
            "no images", where=folder, expected=f"files of {', '.join(IMAGE_FORMATS)}", got="an empty folder"
        )
    if (needed := len(files) * 3 * size * size) > MAX_BYTES:
        got = f"{len(files):,} images of {size} x {size}, {needed:,} bytes"
        do = "choose a smaller --image-size"
        raise DataError("too much", where=folder, expected=f"up to {MAX_BYTES:,} bytes", got=got, do=do)
    images = np.empty((len(files), 3, size, size), dtype=np.uint8)
    with progress() as bar:
        task = bar.add_task("reading images", total=len(files), note="")
        for index, file in enumerate(files):
            images[index] = read_image(file, (size, size)).transpose(2, 0, 1)
            bar.advance(task)
    grey = (images == images[:, :1]).all()
    return torch.from_numpy(images[:, :1].copy() if grey else images)
