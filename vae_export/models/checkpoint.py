"""Checkpoints: weights, config, example images and provenance in one safetensors file.

The file's header has one metadata entry, "vae_export", a JSON object:

    format      "vae-export-checkpoint/1"
    config      VAEConfig
    provenance  data set, data protocol, seed, epoch, scores and versions of the training
    sha256      hash of config, provenance and every tensor (name, dtype, shape, bytes), which reveals a flipped bit

The tensors are the model's `state_dict`, with the prefix "model.", and "examples", uint8 (M, C, H, W). The examples are
held-out images, so that a checkpoint alone is enough to test a model with real data. No pickle is loaded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_export.errors import CheckpointError, InputError
from vae_export.io.atomic import sha256, write_atomic
from vae_export.io.hashed_safetensors import ENTRY, hashed_bytes, read_hashed, read_tensor_table
from vae_export.models.config import VAEConfig
from vae_export.runs import Run
from vae_export.system.extras import require

if TYPE_CHECKING:
    from torch import Tensor

    from vae_export.models.vae import VAE

FORMAT = "vae-export-checkpoint/1"
#: The prefix of each weight's name, and the name of the example images.
PREFIX, EXAMPLES = "model.", "examples"


@dataclass(frozen=True)
class CheckpointHeader:
    """The header of a checkpoint, which can be read without torch.

    Attributes:
        config, provenance: as in `Checkpoint`.
        parameters: number of parameters of the model.
        digest: SHA-256 of the contents, the identity of the checkpoint.
    """

    config: VAEConfig
    provenance: Mapping[str, Any]
    parameters: int
    digest: str


def read_checkpoint_header(path: Path) -> CheckpointHeader:
    """Read the header of a checkpoint without its weights.

    Args:
        path: the checkpoint.

    Raises:
        CheckpointError: the file is missing, incomplete or not a checkpoint of this version.
    """
    try:
        tensors = read_tensor_table(path)
        document = json.loads(tensors.pop("__metadata__")[ENTRY])
        if document["format"] != FORMAT:
            raise CheckpointError("checkpoint of another version", where=path, expected=FORMAT, got=document["format"])
        if not isinstance(document["provenance"], dict) or not isinstance(document["sha256"], str):
            raise ValueError("no provenance or no SHA-256")
        weights = (math.prod(tensor["shape"]) for name, tensor in tensors.items() if name.startswith(PREFIX))
        return CheckpointHeader(
            VAEConfig.from_json(document["config"]), document["provenance"], sum(weights), document["sha256"]
        )
    except CheckpointError:
        raise
    except (OSError, LookupError, TypeError, ValueError, RecursionError, InputError) as error:
        named = isinstance(error, (LookupError, TypeError))  # the message of these errors is only one word
        got = f"{type(error).__name__}: {error}" if named else str(error)
        raise CheckpointError("checkpoint cannot be read", where=path, got=got) from error


@dataclass(frozen=True)
class Checkpoint:
    """A trained VAE with all that is needed to export it.

    Attributes:
        config: the network.
        weights: its state_dict, float32, on the CPU.
        examples: held-out images, uint8 (M, C, H, W); M may be 0.
        provenance: facts about the training, JSON-able.
        sha256: hash of the file from which it was read; empty if it was never written.

    Raises:
        CheckpointError: weights or examples do not fit the config.
    """

    config: VAEConfig
    weights: Mapping[str, Tensor]
    examples: Tensor
    provenance: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""

    def __post_init__(self) -> None:
        _check(self)

    def model(self) -> VAE:
        """Return the network with these weights, in eval mode, on the CPU."""
        from vae_export.models.vae import VAE

        model = VAE(self.config)
        model.load_state_dict(self.weights)
        return model.eval()


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint atomically; equal checkpoints give equal bytes.

    Args:
        checkpoint: the checkpoint.
        path: the file to write.

    Raises:
        StorageError: the disk is full, or the folder is not writable.
    """
    write_atomic(path, checkpoint_bytes(checkpoint))


def checkpoint_bytes(checkpoint: Checkpoint) -> bytes:
    """Return the bytes that `save_checkpoint` writes."""
    tensors = {PREFIX + name: tensor for name, tensor in checkpoint.weights.items()} | {EXAMPLES: checkpoint.examples}
    header = {"format": FORMAT, "config": checkpoint.config.to_json(), "provenance": dict(checkpoint.provenance)}
    return hashed_bytes(header, tensors)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint that `save_checkpoint` wrote.

    Args:
        path: the file.

    Returns:
        The checkpoint, on the CPU.

    Raises:
        CheckpointError: the file is missing, is not a safetensors file or has another version; names or shapes of
            weights do not match the config; a weight is not finite float32.
        IntegrityError: the content does not match its hash.
        MissingExtraError: PyTorch or safetensors is not installed.
    """
    require("export", "torch", "safetensors")
    import torch

    path = Path(path)
    previous = Run(path.parent).previous(path)
    do = f"the one before it is {previous}" if previous.exists() else None
    expected = "a checkpoint of python cli.py train"
    header, tensors, data = read_hashed(
        path, "checkpoint", FORMAT, (torch.float32, torch.uint8), expected=expected, do=do
    )
    config, provenance, examples = header.get("config"), header.get("provenance"), tensors.pop(EXAMPLES, None)
    if not (isinstance(config, dict) and isinstance(provenance, dict) and examples is not None):
        raise CheckpointError("checkpoint is incomplete", where=path, expected=f"config, provenance, {EXAMPLES}")
    weights = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    return Checkpoint(VAEConfig.from_json(config), weights, examples, provenance, sha256(data))


def _check(checkpoint: Checkpoint) -> None:
    """Raise `CheckpointError` unless names, shapes and dtypes fit the network.

    The network is built on the meta device, so that a damaged config cannot allocate much memory.
    """
    import torch

    from vae_export.models.vae import VAE

    try:
        with torch.device("meta"):
            expected = {name: tuple(tensor.shape) for name, tensor in VAE(checkpoint.config).state_dict().items()}
    except (RuntimeError, TypeError) as error:  # sizes beyond what PyTorch can count
        raise CheckpointError(
            "network cannot be built from the config", got=f"{type(error).__name__}: {error}"
        ) from error
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
            "weights do not match the config",
            where=f"family {checkpoint.config.family}",
            got=", ".join(sorted(problems)),
        )
    shape, dtype = tuple(checkpoint.examples.shape[1:]), checkpoint.examples.dtype
    if shape != checkpoint.config.image_shape or dtype != torch.uint8:
        raise CheckpointError(
            "examples do not fit", expected=f"uint8 (M, {checkpoint.config.image_shape})", got=f"{dtype} {shape}"
        )
