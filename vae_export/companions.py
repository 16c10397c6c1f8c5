"""Files that must lie beside another one, such as the weights of an OpenVINO model beside its graph.

Nearly every format is one file, and its content is plain `bytes`. A format of several files hands round the bytes of
the first one as `Accompanied`, which carries the others: whoever writes, hashes or packs a file asks `contents`, and
whoever only reads the first need not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from types import MappingProxyType


class Accompanied(bytes):
    """The bytes of a file; `beside` has those of its companions by suffix, such as ".bin"."""

    beside: Mapping[str, bytes]

    def __new__(cls, data: bytes, beside: Mapping[str, bytes]) -> Accompanied:
        accompanied = super().__new__(cls, data)
        accompanied.beside = MappingProxyType(dict(beside))
        return accompanied


def contents(name: str, data: bytes) -> dict[str, bytes]:
    """All files that hold `data`, by name: `name` first, then its companions, which differ from it in the suffix."""
    beside = data.beside if isinstance(data, Accompanied) else {}
    return {name: data} | {companion_name(name, suffix): content for suffix, content in beside.items()}


def companion_name(name: str, suffix: str) -> str:
    """decoder.openvino.xml, ".bin" → decoder.openvino.bin: where OpenVINO itself looks for it."""
    return str(PurePosixPath(name).with_suffix(suffix))
