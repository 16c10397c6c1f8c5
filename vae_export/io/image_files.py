"""Find image files and decode them to 8 bits a channel.

An image is rotated as its EXIF tag says, and its transparent parts become white. The first picture of an animation is
taken.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from vae_export.errors import DataError

#: The largest image that is decoded: a few kilobytes of PNG can hold gigapixels.
MAX_PIXELS = 64_000_000

#: The formats that Pillow may decode. It knows more, and some of those, like EPS, run other programs.
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")

ImageArray = npt.NDArray[np.uint8]


def find_images(folder: Path) -> list[Path]:
    """Return the files below `folder`, in the order of their paths, without names that begin with a dot."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path.relative_to(folder)))


def read_image(file: Path, size: tuple[int, int] | None = None) -> ImageArray:
    """Decode one image.

    Args:
        file: a file in one of `IMAGE_FORMATS`.
        size: (height, width) to which it is cropped at the centre and resized; None leaves it as it is.

    Returns:
        uint8 (H, W, 3); the three channels of a grey image are equal.

    Raises:
        DataError: the file is not a readable image, or is too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of much that it reads all the same; size is checked here
            with Image.open(file, formats=IMAGE_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    expected, got = f"up to {MAX_PIXELS:,} pixels", f"{image.width:,} x {image.height:,}"
                    raise DataError("image too large", where=file, expected=expected, got=got, do="shrink or remove it")
                sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
                if image.mode in ("I", "F") and not sixteen_bits:
                    expected, do = "8 or 16 bits a channel", "convert or remove it"
                    raise DataError("pixels of no known range", where=file, expected=expected, got="32 bits", do=do)
                rgb = _rgb(ImageOps.exif_transpose(image), sixteen_bits=sixteen_bits)
                if size is not None:
                    rgb = ImageOps.fit(rgb, (size[1], size[0]), Image.Resampling.LANCZOS)
                return np.asarray(rgb)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise a dozen kinds on damaged files
        do = "repair or remove it"
        raise DataError(
            "no readable image", where=file, expected=" | ".join(IMAGE_FORMATS), got=error, do=do
        ) from error


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
