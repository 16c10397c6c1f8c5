"""The type of a mutation, and the ways in which it must be caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto

from vae_export.contract import Part
from vae_export.errors import VaeExportError
from vae_export.models.config import Family

Array = np.ndarray
Change = Callable[[ModelProto], None]


@dataclass(frozen=True)
class Differs:
    """Caught because these outputs are further from float64 than rounding explains, and no others.

    `at` is the value where the file leaves the path; by default the first one that a changed weight goes into.
    """

    outputs: frozenset[str]
    at: str | None = None


@dataclass(frozen=True)
class Faulty:
    """Caught because an output is no array that can be compared: rows with this fault."""

    fault: str


@dataclass(frozen=True)
class Linted:
    """Caught by reading the file: an error of this rule."""

    rule: str


@dataclass(frozen=True)
class Refused:
    """Caught before anything is compared: an error of the command line's."""

    error: type[VaeExportError]
    text: str


@dataclass(frozen=True)
class Recorded:
    """Harmless: passes, with a warning of this rule in the certificate."""

    rule: str


Catch = Differs | Faulty | Linted | Refused | Recorded


@dataclass(frozen=True)
class Mutation:
    name: str
    change: Change
    caught: Catch
    part: Part = "decoder"
    family: Family = "mlp"
    thorough: bool = False

    def apply(self, data: bytes) -> bytes:
        model = onnx.load_from_string(data)
        before = model.SerializeToString()
        self.change(model)
        after: bytes = model.SerializeToString()
        assert after != before, "the mutation changes nothing"
        return after


def differs(*outputs: str, at: str | None = None) -> Differs:
    return Differs(frozenset(outputs), at)
