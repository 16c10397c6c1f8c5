"""Read a folder of image files of any size, cropped to their middle square and resized to one size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vae_export.errors import DataError
from vae_export.io.image_files import IMAGE_FORMATS, find_images, read_image

#: Most bytes that all images together may take in memory.
MAX_BYTES = 8 << 30


def read_folder(folder: Path, size: int, *, progress: Callable[[int, int], None] = lambda _done, _all: None) -> Tensor:
    """Read all images below a folder, in the order of their paths.

    Args:
        folder: Its subfolders are read too; names that begin with a dot are left out.
        size: Side of the resulting square images, in pixels.
        progress: Is called after each image with the number of images read and of all images.

    Returns:
        uint8 (N, C, size, size); C is 1 if all images are grey, else 3.

    Raises:
        DataError: There are no images, too many for the memory, or one that cannot be read.
    """
    if not folder.is_dir():
        raise DataError("no such folder", where=folder, do="say where the images are: --data-dir FOLDER")
    files = find_images(folder)
    if not files:
        expected = f"files of {', '.join(IMAGE_FORMATS)}"
        raise DataError("no images", where=folder, expected=expected, got="an empty folder")
    if (needed := len(files) * 3 * size * size) > MAX_BYTES:
        got = f"{len(files):,} images of {size} x {size}, {needed:,} bytes"
        do = "choose a smaller --image-size"
        raise DataError("too many images", where=folder, expected=f"up to {MAX_BYTES:,} bytes", got=got, do=do)
    images = np.empty((len(files), 3, size, size), dtype=np.uint8)
    for index, file in enumerate(files):
        images[index] = read_image(file, (size, size)).transpose(2, 0, 1)
        progress(index + 1, len(files))
    grey = (images == images[:, :1]).all()
    return torch.from_numpy(images[:, :1].copy() if grey else images)
