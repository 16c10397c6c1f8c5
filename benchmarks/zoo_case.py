"""How `zoo.py` exports a function's model, and what must become of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["pass", "refused"]


@dataclass(frozen=True)
class Case:
    """A function that returns a model: a VAE, or (encoder, decoder).

    Attributes:
        make: the function.
        data: one row of the data, as --data-shape takes it.
        latents: one row of each input of the decoder, for torch.onnx.export alone: "6" for numbers, "32:4x4" for codes
            below 32. Without any, torch.onnx.export gets what the encoder gave.
        expected: "pass" for a verified export, "refused" for one line and no file.
        options: further options of `vae-export export`.
    """

    make: Callable[[], Any]
    data: str
    latents: tuple[str, ...]
    expected: Verdict
    options: tuple[str, ...]


class Catalogue(dict[str, Case]):
    """Cases by the names of their functions, in the order of a file."""

    def add(
        self, data: str, *latents: str, expected: Verdict = "pass", options: str = ""
    ) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
        """Return a decorator that adds a function.

        Args:
            data, latents, expected: as `Case` has them.
            options: further options, separated by spaces.
        """

        def added(make: Callable[[], Any]) -> Callable[[], Any]:
            self[make.__name__] = Case(make, data, latents, expected, tuple(options.split()))
            return make

        return added
