"""What a file gives when it is run: outputs, or the reason why there are none; and whether two runs gave the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vae_export.contract import Array, PartSpec
from vae_export.formats import Runner
from vae_export.parity.measure import failure


def answer(runner: Runner, inputs: Mapping[str, Array], spec: PartSpec) -> tuple[dict[str, Array], str | None]:
    """The outputs, or why there are none: a file that cannot run a batch has failed that row, and only that."""
    try:
        outputs = runner(inputs)
    except Exception as error:
        return {}, failure(error)
    wanted = [tensor.name for tensor in spec.outputs]
    if list(outputs) != wanted:
        return {}, f"wrong outputs; expected {wanted}, got {list(outputs)}"
    return outputs, None


def same_bits(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    """Whether two answers have the same outputs, to the bit."""
    same = (np.asarray(one[name]).tobytes() == np.asarray(other[name]).tobytes() for name in one.keys() & other.keys())
    return one.keys() == other.keys() and all(same)
