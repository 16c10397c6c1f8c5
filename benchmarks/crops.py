"""Cut photographs that two packages ship into square crops, for measurements on real photographs without a download.

    python benchmarks/crops.py FOLDER [--side 64] [--count 4000] [--seed 0]

The photographs are those in the wheels of scikit-learn and scikit-image, at full and at half size. Crops overlap, so a
random split would put the same pixels into training and test. The right strip of every photograph is therefore held
out: its upper half gives validation crops, its lower half test crops. `crops` returns such a data set; the
command writes all crops to a folder, a PNG file each, for `train --dataset folder`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from train.data.datasets import Dataset

Photograph = npt.NDArray[np.uint8]

#: Those of scikit-image that were taken with a camera and in colour, without a telescope or a microscope.
SKIMAGE = ("astronaut", "chelsea", "coffee", "motorcycle_left", "rocket")
#: Sizes of a photograph that crops are cut from, relative to its own.
SCALES = (1.0, 0.5)
#: Share of the crops in each split.
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def photographs() -> Iterator[Photograph]:
    """Yield the photographs, uint8 (H, W, 3)."""
    import skimage
    from sklearn.datasets import load_sample_images

    yield from (np.asarray(image) for image in load_sample_images().images)
    folder = Path(skimage.__file__).parent / "data"
    for name in SKIMAGE:
        with Image.open(next(folder.glob(f"{name}.*"))) as image:
            yield np.asarray(image.convert("RGB"))


def regions(photograph: Photograph, side: int) -> dict[str, Photograph]:
    """Return the part of a photograph that each split is cut from. None overlaps another."""
    held_out = round(side / min(SCALES))
    height, width = photograph.shape[0] // 2, photograph.shape[1] - held_out
    strip = photograph[:, width:]
    return {"train": photograph[:, :width], "validation": strip[:height], "test": strip[height:]}


def crops(side: int, count: int, seed: int = 0) -> Dataset:
    """Return random crops of the photographs, uint8 (N, 3, side, side), with splits that share no pixel.

    Photographs that are too small for crops of this side are left out.
    """
    large = [image for image in photographs() if image.shape[0] // 2 >= 2 * side and image.shape[1] >= 4 * side]
    if not large:
        raise SystemExit(f"no photograph is large enough for crops of {side} x {side}")
    generator = np.random.default_rng(seed)
    splits: dict[str, torch.Tensor] = {}
    for split, share in SHARES.items():
        places = [_scaled(regions(image, side)[split], scale) for image in large for scale in SCALES]
        areas = np.array([place.shape[0] * place.shape[1] for place in places], dtype=np.float64)
        chosen = generator.choice(len(places), size=max(1, round(share * count)), p=areas / areas.sum())
        cut = [_crop(places[index], side, generator) for index in chosen]
        splits[split] = torch.from_numpy(np.stack(cut).transpose(0, 3, 1, 2).copy())
    return Dataset("crops", splits["train"], splits["validation"], splits["test"])


def _scaled(image: Photograph, scale: float) -> Photograph:
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _crop(image: Photograph, side: int, generator: np.random.Generator) -> Photograph:
    top, left = (int(generator.integers(0, length - side + 1)) for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dataset = crops(options.side, options.count, options.seed)
    for split in SHARES:
        folder = options.folder / split
        folder.mkdir(parents=True)
        for index, image in enumerate(dataset.split(split)):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index:06d}.png")
    print(f"{options.folder}: {options.count:,} crops of {options.side} x {options.side}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
