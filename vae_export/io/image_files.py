"""Find image files and decode them to 8 bits a channel.

An image is rotated by its EXIF tag, and its transparent parts become white unless opacity is asked for. Only the first
frame of an animation is decoded.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from vae_export.errors import DataError

#: The largest number of pixels that is decoded, because a PNG of a few kilobytes can hold gigapixels.
MAX_PIXELS = 64_000_000

#: The formats that Pillow may decode. Some of its other formats, such as EPS, run other programs.
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")

ImageArray = npt.NDArray[np.uint8]


def find_images(folder: Path) -> list[Path]:
    """Return all files below a folder, sorted by path, except those with a name or folder that begins with a dot."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path.relative_to(folder)))


def holds_images(folder: Path, *, within: bool = False) -> bool:
    """Return whether a folder has a file with the name of an image; with `within`, or each folder in it has one."""
    names = {suffix for suffix, format in Image.registered_extensions().items() if format in IMAGE_FORMATS}

    def has_image(folder: Path) -> bool:
        return any(path.suffix.lower() in names and path.is_file() for path in folder.iterdir())

    inner = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")] if within else []
    return has_image(folder) or (bool(inner) and all(map(has_image, inner)))


def read_image(file: Path, size: tuple[int, int] | None = None, *, opacity: bool = False) -> ImageArray:
    """Decode one image.

    Args:
        file: a file in one of `IMAGE_FORMATS`.
        size: (height, width) in pixels, to which the image is cropped at the centre and resized; None keeps its size.
        opacity: whether to return a fourth channel, 255 where the image is opaque.

    Returns:
        uint8 (H, W, 3) or (H, W, 4) in [0, 255]; the first three channels of a grey image are equal.

    Raises:
        DataError: the file is not a readable image, or is too large.
    """
    return read_fitted(file, size, opacity=opacity)[0]


def read_fitted(
    file: Path, size: tuple[int, int] | None, *, opacity: bool = False
) -> tuple[ImageArray, tuple[int, int]]:
    """Decode one image as `read_image` does; return it, and the height and width that it had."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about files that it can read; the size is checked below
            with Image.open(file, formats=IMAGE_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    expected, got = f"up to {MAX_PIXELS:,} pixels", f"{image.width:,} x {image.height:,}"
                    raise DataError("image too large", where=file, expected=expected, got=got, do="shrink or remove it")
                sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
                if image.mode in ("I", "F") and not sixteen_bits:
                    expected, do = "8 or 16 bits a channel", "convert or remove it"
                    raise DataError("pixels of an unknown range", where=file, expected=expected, got="32 bits", do=do)
                rgb = _rgb(ImageOps.exif_transpose(image), sixteen_bits=sixteen_bits, opacity=opacity)
                stored = rgb.height, rgb.width
                if size is not None:
                    rgb = ImageOps.fit(rgb, (size[1], size[0]), Image.Resampling.LANCZOS)
                return np.asarray(rgb), stored
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise a dozen kinds on damaged files
        do = "repair or remove it"
        raise DataError(
            "not a readable image", where=file, expected=" | ".join(IMAGE_FORMATS), got=error, do=do
        ) from error


def _rgb(image: Image.Image, *, sixteen_bits: bool, opacity: bool) -> Image.Image:
    """Convert an image to 8-bit RGB or RGBA. 16-bit grey is scaled here, because Pillow would clip it at 255."""
    if sixteen_bits:
        levels = np.asarray(image).astype(np.uint32)  # converts to native byte order
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if opacity:
        return image.convert("RGBA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
