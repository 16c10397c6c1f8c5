"""A checkpoint: weights, config, a few example images and where it all came from, in one safetensors file.

The file's header has one metadata entry, "vae_export", a JSON object:

    format      "vae-export-checkpoint/1"
    config      VAEConfig
    provenance  what made it: data set, data protocol, seed, epoch, scores, versions
    sha256      of config, provenance and every tensor (name, dtype, shape, bytes), so that a flipped bit is seen

and its tensors are the model's `state_dict` under "model." plus "examples", uint8 (M, C, H, W): held-out images, so
that the checkpoint alone is enough to probe a model with real data. No pickle is ever loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vae_export.errors import CheckpointError, IntegrityError
from vae_export.files import sha256, write_atomic
from vae_export.models import VAE, VAEConfig

FORMAT = "vae-export-checkpoint/1"
_PREFIX, _EXAMPLES, _METADATA = "model.", "examples", "vae_export"


@dataclass(frozen=True)
class Checkpoint:
    """Attributes:
    config: the network.
    weights: its state_dict, float32, on the CPU.
    examples: held-out images, uint8 (M, C, H, W), M may be 0.
    provenance: JSON-able; what made this checkpoint.
    sha256: of the file it was read from; empty for one that was never written.
    """

    config: VAEConfig
    weights: Mapping[str, Tensor]
    examples: Tensor
    provenance: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""

    def __post_init__(self) -> None:
        _check(self)

    def model(self) -> VAE:
        """The network with these weights, in eval mode, on the CPU."""
        model = VAE(self.config)
        model.load_state_dict(self.weights)
        return model.eval()


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write atomically; equal checkpoints give equal bytes. Raises `CheckpointError`, `StorageError`."""
    tensors = {_PREFIX + name: tensor.contiguous() for name, tensor in checkpoint.weights.items()}
    tensors[_EXAMPLES] = checkpoint.examples.contiguous()
    header = {"format": FORMAT, "config": checkpoint.config.to_json(), "provenance": dict(checkpoint.provenance)}
    header["sha256"] = _digest(header, tensors)
    # One entry only: safetensors writes several in the order of a hash map, which differs from run to run.
    write_atomic(path, save(tensors, metadata={_METADATA: _canonical(header)}))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint written by `save_checkpoint`.

    Raises:
        CheckpointError: no such file, not safetensors, another version, keys or shapes that do not fit, weights that
            are not finite float32.
        IntegrityError: the bytes are not those that were written.
    """
    path = Path(path)
    try:
        data = _bytes(path)
        header, tensors = _parse(data)
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
        previous = path.parent / "state" / f"previous-{path.name}"
        do = f"the one before it is {previous}" if previous.exists() else "is it a checkpoint of `cli.py train`?"
        expected = "a safetensors file of `cli.py train`"
        raise CheckpointError(
            "checkpoint cannot be read", where=path, expected=expected, got=_reason(error), do=do
        ) from error
    if header.get("format") != FORMAT:
        raise CheckpointError("checkpoint of another version", where=path, expected=FORMAT, got=header.get("format"))
    stated = header.pop("sha256", None)
    if (actual := _digest(header, tensors)) != stated:
        raise IntegrityError("checkpoint was altered", where=path, expected=f"SHA-256 {stated}", got=actual)
    config, provenance, examples = header.get("config"), header.get("provenance"), tensors.pop(_EXAMPLES, None)
    if not (isinstance(config, dict) and isinstance(provenance, dict) and examples is not None):
        raise CheckpointError("checkpoint is incomplete", where=path, expected=f"config, provenance, {_EXAMPLES}")
    weights = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    return Checkpoint(VAEConfig.from_json(config), weights, examples, provenance, sha256(data))


def _bytes(path: Path) -> bytes:
    """The whole file at once: what is parsed is what is hashed, even if the file is replaced meanwhile."""
    if not path.is_file():  # a device or a pipe would never end
        raise OSError("no such file" if not path.exists() else "not a file")
    return path.read_bytes()


def _parse(data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tensors = load(data)
    length = int.from_bytes(data[:8], "little")  # `load` has held it against the file
    text = json.loads(data[8 : 8 + length])["__metadata__"][_METADATA]
    header = json.loads(text)
    if not isinstance(header, dict):
        raise ValueError("no vae_export header")
    if _canonical(header) != text:  # 1e-5 turned into 1E-5 by one flipped bit reads the same; still it was altered
        raise ValueError("header is not as it was written")
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.uint8):
            raise ValueError(f"{name} is {tensor.dtype}, not float32")
    return header, tensors


def _check(checkpoint: Checkpoint) -> None:
    """Compare names, shapes and dtypes with the network, built without memory, so that no header can claim much."""
    try:
        with torch.device("meta"):
            expected = {name: tuple(tensor.shape) for name, tensor in VAE(checkpoint.config).state_dict().items()}
    except (RuntimeError, TypeError) as error:  # sizes beyond what PyTorch can count
        raise CheckpointError("config cannot be built", got=_reason(error)) from error
    got = {name: tuple(tensor.shape) for name, tensor in checkpoint.weights.items()}
    problems = [f"missing {name}" for name in expected.keys() - got.keys()]
    problems += [f"unknown {name}" for name in got.keys() - expected.keys()]
    for name in expected.keys() & got.keys():
        tensor = checkpoint.weights[name]
        if got[name] != expected[name]:
            problems.append(f"{name} has shape {got[name]}, not {expected[name]}")
        elif tensor.dtype != torch.float32 or tensor.layout != torch.strided:
            problems.append(f"{name} is {tensor.dtype} {tensor.layout}, not dense float32")
        elif not torch.isfinite(tensor).all():
            problems.append(f"{name} holds numbers that are not finite")
    if problems:
        raise CheckpointError(
            "weights do not fit", where=f"family {checkpoint.config.family}", got=", ".join(sorted(problems))
        )
    shape, dtype = tuple(checkpoint.examples.shape[1:]), checkpoint.examples.dtype
    if shape != checkpoint.config.image_shape or dtype != torch.uint8:
        raise CheckpointError(
            "examples do not fit", expected=f"uint8 (M, {checkpoint.config.image_shape})", got=f"{dtype} {shape}"
        )


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(_canonical(header).encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name].numpy())
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
