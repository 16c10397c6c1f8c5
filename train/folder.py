"""A folder of images of any size, brought to one: uint8 (N, C, S, S), grey if all of them are.

Files are taken in the order of their paths, those of subfolders too; names that begin with a dot are left out. An
image is turned as its EXIF tag says, its transparent parts become white, its middle square is cut out and resized. Of
an animation the first picture is taken.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vae_export.cli.console import progress
from vae_export.errors import DataError

#: Of one image, before it is decoded: a few kilobytes of PNG can hold gigapixels.
MAX_PIXELS = 64_000_000
#: Of all images together, in memory.
MAX_BYTES = 8 << 30

#: What Pillow may decode. It knows more; some, like EPS, run other programs.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")

Pixels = npt.NDArray[np.uint8]


def read_folder(folder: Path, size: int) -> Tensor:
    """All images below `folder` as uint8 (N, C, size, size); C is 1 if all are grey, else 3. Raises `DataError`."""
    if not folder.is_dir():
        raise DataError("no such folder", where=folder, do="say where the images are: --data-dir FOLDER")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path.relative_to(folder)))
    if not files:
        raise DataError("no images", where=folder, expected=f"files of {', '.join(FORMATS)}", got="an empty folder")
    if (needed := len(files) * 3 * size * size) > MAX_BYTES:
        got = f"{len(files):,} images of {size} x {size}, {needed:,} bytes"
        do = "choose a smaller --image-size"
        raise DataError("too much", where=folder, expected=f"up to {MAX_BYTES:,} bytes", got=got, do=do)
    images = np.empty((len(files), 3, size, size), dtype=np.uint8)
    with progress() as bar:
        task = bar.add_task("reading images", total=len(files), note="")
        for index, file in enumerate(files):
            images[index] = read_image(file, size).transpose(2, 0, 1)
            bar.advance(task)
    grey = (images == images[:, :1]).all()
    return torch.from_numpy(images[:, :1].copy() if grey else images)


def read_image(file: Path, size: int) -> Pixels:
    """One image as uint8 (size, size, 3); the three are equal in a grey one. Raises `DataError` that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of much that it reads all the same; size is checked here
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    expected, got = f"up to {MAX_PIXELS:,} pixels", f"{image.width:,} x {image.height:,}"
                    raise DataError("image too large", where=file, expected=expected, got=got, do="shrink or remove it")
                sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
                if image.mode in ("I", "F") and not sixteen_bits:
                    expected, do = "8 or 16 bits a channel", "convert or remove it"
                    raise DataError("pixels of no known range", where=file, expected=expected, got="32 bits", do=do)
                rgb = _rgb(ImageOps.exif_transpose(image), sixteen_bits=sixteen_bits)
                return np.asarray(ImageOps.fit(rgb, (size, size), Image.Resampling.LANCZOS))
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise a dozen kinds on damaged files
        do = "repair or remove it"
        raise DataError("no readable image", where=file, expected=" | ".join(FORMATS), got=error, do=do) from error


def _rgb(image: Image.Image, *, sixteen_bits: bool) -> Image.Image:
    """Decode to 8 bits a channel. Pillow alone would clip 16-bit grey at 255 instead of scaling it."""
    if sixteen_bits:
        levels = np.asarray(image).astype(np.uint32)  # in the machine's byte order, whatever the file's
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
