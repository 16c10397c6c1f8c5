"""The header of a checkpoint: what it says of itself, read without its weights and without torch.

Names and sizes are checked, bytes are not: `vae_export.checkpoint` does that, and has the format.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vae_export.errors import CheckpointError, InputError
from vae_export.models.config import VAEConfig

FORMAT = "vae-export-checkpoint/1"
#: Names in the file: of the metadata's one entry, before each weight's own, of the example images.
ENTRY, PREFIX, EXAMPLES = "vae_export", "model.", "examples"
#: Ours have some thousand bytes; whoever claims more than this is not read.
_LIMIT = 16 << 20


@dataclass(frozen=True)
class Header:
    """Attributes:
    config, provenance: as in `Checkpoint`.
    parameters: numbers in its weights.
    digest: SHA-256 of its contents, which is what tells one checkpoint from another.
    """

    config: VAEConfig
    provenance: Mapping[str, Any]
    parameters: int
    digest: str


def read_header(path: Path) -> Header:
    """Raises `CheckpointError` for a file that is no checkpoint of ours, or not whole."""
    try:
        tensors = _tensors(path)
        document = json.loads(tensors.pop("__metadata__")[ENTRY])
        if document["format"] != FORMAT:
            raise CheckpointError("checkpoint of another version", where=path, expected=FORMAT, got=document["format"])
        if not isinstance(document["provenance"], dict) or not isinstance(document["sha256"], str):
            raise ValueError("no provenance or no SHA-256")
        weights = (math.prod(tensor["shape"]) for name, tensor in tensors.items() if name.startswith(PREFIX))
        return Header(VAEConfig.from_json(document["config"]), document["provenance"], sum(weights), document["sha256"])
    except CheckpointError:
        raise
    except (OSError, LookupError, TypeError, ValueError, RecursionError, InputError) as error:
        named = isinstance(error, (LookupError, TypeError))  # their text alone is one word
        got = f"{type(error).__name__}: {error}" if named else str(error)
        raise CheckpointError("checkpoint cannot be read", where=path, got=got) from error


def _tensors(path: Path) -> dict[str, Any]:
    """The JSON object that a safetensors file begins with, after its length as a little-endian 64-bit number."""
    if not path.is_file():  # a device or a pipe would never end
        raise OSError("no such file" if not path.exists() else "not a file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LIMIT):
            raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
        document = json.loads(file.read(length))
    if not isinstance(document, dict):
        raise ValueError("no JSON object")
    ends = [tensor["data_offsets"][1] for name, tensor in document.items() if name != "__metadata__"]
    if size != (whole := 8 + length + max(ends, default=0)):
        raise ValueError(f"{size:,} bytes of {whole:,}")
    return document
