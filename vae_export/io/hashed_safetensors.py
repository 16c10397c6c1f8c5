"""Store tensors and a JSON header in one safetensors file, with a SHA-256 of both. No pickle is loaded.

The file has one metadata entry, "vae_export": the header as canonical JSON. Its "format" is the kind of file. Its
"sha256" is the hash of the header and of every tensor (name, dtype, shape, bytes), so that a flipped bit is detected.
Equal content gives equal bytes. The header can be read without torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_export.errors import CheckpointError, IntegrityError
from vae_export.system.extras import require

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: The name of the only entry of the metadata.
ENTRY = "vae_export"
#: The largest header that is read, in bytes. Real headers have some thousand bytes.
_LIMIT = 16 << 20


def hashed_bytes(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Make a safetensors file with a header, tensors and their hash.

    Args:
        header: JSON-able, with the kind of file as "format".
        tensors: tensors on the CPU by name.

    Returns:
        The bytes of the file; equal arguments give equal bytes.
    """
    require("export", "torch", "safetensors")
    from safetensors.torch import save

    dense = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with_digest = dict(header) | {"sha256": content_digest(header, dense)}
    # One entry only: safetensors writes several in the order of a hash map, which differs from run to run.
    return save(dense, metadata={ENTRY: canonical_json(with_digest)})


def read_hashed(
    path: Path, what: str, format: str, dtypes: Collection[torch.dtype], *, expected: str, do: str | None = None
) -> tuple[dict[str, Any], dict[str, Tensor], bytes]:
    """Read a file that `hashed_bytes` made.

    Args:
        path: the file.
        what: the kind of file, such as "checkpoint", for messages.
        format: the "format" that its header must have.
        dtypes: the dtypes that its tensors may have.
        expected: the expected file, for messages.
        do: the next step for the user if the file cannot be read or was altered, for messages.

    Returns:
        The header, the tensors by name, and the bytes of the file.

    Raises:
        CheckpointError: the file is missing, is not a safetensors file, or has another format.
        IntegrityError: the content does not match its hash.
    """
    require("export", "torch", "safetensors")
    from safetensors import SafetensorError

    try:
        data = _bytes(path)
        header, tensors = _parse(data, dtypes)
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
        got = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{what} cannot be read", where=path, expected=expected, got=got, do=do) from error
    if header.get("format") != format:
        found = header.get("format")
        raise CheckpointError(f"{what} of another version", where=path, expected=format, got=found, do=do)
    stated = header.pop("sha256", None)
    if (actual := content_digest(header, tensors)) != stated:
        raise IntegrityError(f"{what} was altered", where=path, expected=f"SHA-256 {stated}", got=actual, do=do)
    return header, tensors, data


def content_digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Hash the content of a file: the header, and the name, dtype, shape and bytes of each tensor.

    Args:
        header: the header without its "sha256".
        tensors: contiguous tensors on the CPU, by name.

    Returns:
        The SHA-256, as 64 lower-case hexadecimal digits.
    """
    import numpy as np

    digest = hashlib.sha256(canonical_json(header).encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name].numpy())
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys and without spaces; raise `ValueError` for a number that is not finite."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _bytes(path: Path) -> bytes:
    """Read the whole file once, so that the parsed bytes are the hashed ones."""
    if not path.is_file():  # a device or a pipe would never end
        raise OSError("no such file" if not path.exists() else "not a file")
    return path.read_bytes()


def _parse(data: bytes, dtypes: Collection[torch.dtype]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors.torch import load

    tensors = load(data)
    length = int.from_bytes(data[:8], "little")  # `load` has checked it against the file
    text = json.loads(data[8 : 8 + length])["__metadata__"][ENTRY]
    header = json.loads(text)
    if not isinstance(header, dict):
        raise ValueError("no vae_export header")
    if canonical_json(header) != text:  # one flipped bit turns 1e-5 into 1E-5, which is parsed to the same number
        raise ValueError("header is not canonical JSON")
    for name, tensor in tensors.items():
        if tensor.dtype not in dtypes:
            raise ValueError(f"{name} is {tensor.dtype}, not {' or '.join(map(str, dtypes))}")
    return header, tensors


def read_tensor_table(path: Path) -> dict[str, Any]:
    """Read the JSON object at the beginning of a safetensors file, without the tensors.

    Args:
        path: the file. It starts with the length of the JSON object as a 64-bit number.

    Returns:
        Dtype, shape and offsets of each tensor by name, and the metadata under "__metadata__".

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not a whole safetensors file.
    """
    if not path.is_file():  # a device or a pipe would never end
        raise OSError("no such file" if not path.exists() else "not a file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LIMIT):
            raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
        document = json.loads(file.read(length))
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    ends = [tensor["data_offsets"][1] for name, tensor in document.items() if name != "__metadata__"]
    if size != (whole := 8 + length + max(ends, default=0)):
        raise ValueError(f"{size:,} bytes of {whole:,}")
    return document
