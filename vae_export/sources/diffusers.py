"""Autoencoders that diffusers saved: a folder of config.json and safetensors, read without network.

The sizes of the contract are not taken from the config, whose words differ from class to class. They are measured: the
network is built and run at a few sizes with PyTorch's fake tensors, which have shapes and no numbers.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vae_export.contract import Contract, Encoding
from vae_export.errors import ModelError
from vae_export.io.atomic import sha256
from vae_export.sources.base import Source, described
from vae_export.sources.memory import check_memory
from vae_export.sources.module_calls import MethodModule
from vae_export.sources.module_outputs import find_leaves
from vae_export.sources.options import ModelOptions
from vae_export.system.extras import require
from vae_export.system.streams import silenced
from vae_export.system.torchvision_operators import import_torchvision
from vae_export.tensors import Expression, Shape, Size, Symbol, shape_text

#: Names of the axes that may be free, by their number.
_AXES = {1: ("t",), 2: ("h", "w"), 3: ("t", "h", "w")}
#: Sizes to try on every axis of images and of audio.
_SIDES = (64, 128, 256, 32, 16, 8, 512, 1024)
_LENGTHS = (2**14, 2**15, 2**16, 2**12, 2**10)
#: Numbers of frames to try: causal video networks take 1 and a multiple of 4, 6 or 8; others take a multiple.
_FRAMES = (9, 17, 7, 13, 8, 16, 5, 25, 33)
#: Latents of a usual example lie in this range, so that verifying it is affordable.
_USUAL = (8, 32)
#: Frames of a video in the latent, where nothing else is known.
_USUAL_FRAMES = 2
#: Lists of weights that did not fit, by their names in diffusers' loading info.
_MISFITS = {"missing_keys": "missing", "unexpected_keys": "unexpected", "mismatched_keys": "of another shape"}
_CONFIG, _PIPELINE = "config.json", "model_index.json"
#: Decoders that draw noise, or that are no function of a latent alone.
_REFUSED = {"ConsistencyDecoderVAE": "its decoder is a diffusion process that draws noise"}


def open_diffusers(folder: Path, options: ModelOptions) -> Source:
    """Return an autoencoder that diffusers saved as a source.

    Args:
        folder: what `save_pretrained` of an autoencoder or of a pipeline wrote.
        options: a shape of the data in numbers fixes the sizes; a range replaces [-1, 1].

    Raises:
        ModelError: the folder is no model of a known class, its weights do not fit, or memory does not suffice.
        MissingExtraError: diffusers is not installed.
    """
    folder = _model_folder(folder)
    config = _read_json(folder / _CONFIG)
    name = str(config.get("_class_name"))
    kind = _class(folder, name)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with silenced(), fake:
        try:
            shapes = kind.from_config(config).eval()
        except Exception as error:  # diffusers raises whatever its constructors raise
            raise ModelError("model cannot be built", where=folder, got=f"{type(error).__name__}: {error}") from error
    needed = sum(tensor.numel() * 4 for tensor in itertools.chain(shapes.parameters(), shapes.buffers()))
    check_memory(folder, needed)
    with silenced(), fake:
        sizes, alone = _measure(shapes, name, config, folder)
    contract = _contract(sizes, config, shapes, options)
    with silenced():
        model, files = _load(kind, folder)
    coders = _coders(model, name, alone=alone)
    plain = {key: value for key, value in config.items() if not key.startswith("_") and value is not None}
    provenance = {
        "source": f"diffusers:{folder.name}",
        "class": name,
        "config": plain,
        "weights_sha256": {file.name: sha256(file) for file in files},
        "inferred": {"sizes": sizes.factors, "encoding": sizes.encoding},
    }
    return described(Source(contract, coders[0], coders[1], options.images, provenance))


class VQModelEncoder(MethodModule):
    """image (N, C, H, W) → codes (N, h, w), int64."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the number of the nearest entry of the codebook at each place."""
        latent = cast(Any, super().forward(*inputs)).latents
        _, _, (_, _, codes) = cast(Any, self.module).quantize(latent)
        return cast(Tensor, codes.reshape(latent.shape[0], *latent.shape[2:]))


class VQModelDecoder(MethodModule):
    """codes (N, h, w) → image (N, C, H, W)."""

    def forward(self, *inputs: Tensor) -> object:
        """Return the image of the entries of the codebook."""
        vae = cast(Any, self.module)
        return vae.decode(vae.quantize.embedding(*inputs).permute(0, 3, 1, 2), force_not_quantize=True)


class FramesEncoder(MethodModule):
    """video (N, T, C, H, W) → mean and logvar (N, T, Z, h, w); each frame is encoded by itself."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and logvar."""
        (data,) = inputs
        dist = cast(Any, super().forward(data.flatten(0, 1))).latent_dist
        return dist.mean.unflatten(0, data.shape[:2]), dist.logvar.unflatten(0, data.shape[:2])


class FramesDecoder(MethodModule):
    """latent (N, T, Z, h, w) → video (N, T, C, H, W), which the frames share."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the video."""
        (latent,) = inputs
        decoded = cast(Any, self.module).decode(latent.flatten(0, 1), num_frames=latent.shape[1]).sample
        return cast(Tensor, decoded.unflatten(0, latent.shape[:2]))


#: Encoder and decoder of the classes that give something else than a latent of the data.
_CODERS: Mapping[str, tuple[type[MethodModule], type[MethodModule]]] = {
    "VQModel": (VQModelEncoder, VQModelDecoder),
    "AutoencoderKLTemporalDecoder": (FramesEncoder, FramesDecoder),
}
#: Children of an autoencoder that only one direction uses.
_ENCODING = ("encoder", "quant_conv", "quant_proj")
_DECODING = ("decoder", "post_quant_conv", "post_quant_proj")


@dataclass(frozen=True)
class Sizes:
    """Shapes of one row of data and latent, with symbols for the sizes that may be free.

    Attributes:
        data, latent, output: shapes of what the encoder takes, the decoder takes and the decoder gives.
        encoding: what the encoder gives.
        usual: usual values of the symbols.
    """

    data: Shape
    latent: Shape
    output: Shape
    encoding: Encoding
    usual: Mapping[str, int]

    @property
    def factors(self) -> dict[str, str]:
        """The size of the data on each free axis, such as {"h": "8*h"}."""
        expressions = [Expression.parse(size) for size in self.data if isinstance(size, str)]
        return {expression.symbol: str(expression) for expression in expressions}


def _model_folder(folder: Path) -> Path:
    """Return the folder of the autoencoder: the folder itself, or `vae` of a pipeline."""
    if not folder.is_dir():
        raise ModelError("no such folder", where=folder, expected="what save_pretrained wrote")
    if (folder / _CONFIG).is_file():
        return folder
    if (folder / _PIPELINE).is_file():
        parts = [name for name in ("vae", "vqvae", "movq") if (folder / name / _CONFIG).is_file()]
        if parts:
            return folder / parts[0]
        raise ModelError("pipeline has no autoencoder", where=folder, expected=f"vae/{_CONFIG}")
    raise ModelError("not a model of diffusers", where=folder, expected=f"{_CONFIG} or {_PIPELINE}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError("config cannot be read", where=path, got=error) from error
    if not isinstance(document, dict) or not isinstance(document.get("_class_name"), str):
        raise ModelError("not a config of diffusers", where=path, expected="an object with _class_name")
    return document


def _class(folder: Path, name: str) -> Any:
    """Return diffusers' class of this name."""
    require("diffusers")
    if name in _REFUSED:
        raise ModelError("model cannot be exported", where=f"{folder}, {name}", got=_REFUSED[name])
    with silenced():
        import_torchvision()
        from diffusers.models import autoencoders
    kind = getattr(autoencoders, name, None)
    if kind is None or not all(hasattr(kind, method) for method in ("encode", "decode", "from_config")):
        import diffusers

        expected = f"an autoencoder of diffusers {diffusers.__version__}"
        raise ModelError("unknown class", where=folder / _CONFIG, expected=expected, got=name)
    return kind


def _coders(model: nn.Module, name: str, *, alone: bool) -> tuple[MethodModule, MethodModule]:
    """Return encoder and decoder, each without the weights of the other one if `alone`."""
    encoder, decoder = _CODERS.get(name, (MethodModule, MethodModule))
    return (
        encoder(model, "encode", _DECODING if alone else ()),
        decoder(model, "decode", _ENCODING if alone else ()),
    )


def _measure(model: nn.Module, name: str, config: Mapping[str, Any], folder: Path) -> tuple[Sizes, bool]:
    """Find the shapes by running the network at a few sizes.

    Args:
        model: the network, of fake tensors.
        name: its class.
        config: its config.
        folder: where it lies, for messages.

    Returns:
        The shapes, and whether each direction works without the weights of the other one.
    """
    rank = next(filter(None, map(_dimensions, model.modules())), 2)
    stated = [config[key] for key in ("in_channels", "audio_channels") if isinstance(config.get(key), int)]
    failure: Exception | None = None
    for alone in (True, False):
        coders = _coders(model, name, alone=alone)
        frames = (_USUAL_FRAMES,) if isinstance(coders[0], FramesEncoder) else ()
        for data in _trials(rank, [*dict.fromkeys((*stated, 3))]):
            try:
                return _fit(coders, (*frames, *data), rank, config.get("sample_size")), alone
            except Exception as error:  # the network refuses this size with any error
                failure = failure or error
    got = f"{type(failure).__name__}: {failure}"
    raise ModelError("sizes of the model cannot be inferred", where=folder, got=got)


def _dimensions(module: nn.Module) -> int | None:
    """Return 1, 2 or 3 for a convolution over so many axes."""
    convolutions = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
    return next((rank for kind, rank in convolutions.items() if isinstance(module, kind)), None)


def _trials(rank: int, channels: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield shapes of one row to try, small ones first."""
    for channel in channels:
        if rank == 1:
            yield from ((channel, length) for length in _LENGTHS)
        elif rank == 2:
            yield from ((channel, side, side) for side in _SIDES)
        else:
            yield from ((channel, frames, side, side) for side in _SIDES[:4] for frames in _FRAMES)


def _fit(coders: tuple[MethodModule, MethodModule], data: tuple[int, ...], rank: int, sample: object) -> Sizes:
    """Return the shapes with symbols, from this size of the data and one other size on each axis.

    Raises:
        Exception: what the network raises for a size that it cannot take.
        ModelError: a size of the data is no multiple of the latent's, up to a constant.
    """
    encoding, latent, output = _run(coders, data)
    free_data, free_latent, usual = list[Size](data), list[Size](latent), dict[str, int]()
    for axis, symbol in zip(range(-rank, 0), _AXES[rank], strict=True):
        expression = _expression(symbol, axis, data, latent, lambda larger: _run(coders, larger)[1:])
        free_data[axis], free_latent[axis] = str(expression), symbol
        side = sample[-1] if isinstance(sample, list | tuple) else sample
        wanted = side // expression.factor if isinstance(side, int) and symbol in "hw" else 0
        usual[symbol] = min(max(wanted, _USUAL[0]), _USUAL[1]) if symbol in "hw" else latent[axis]
    if output[-rank:] != data[-rank:]:
        raise ModelError("decoder gives another size", expected=data, got=output)
    free_output = (*output[:-rank], *free_data[-rank:])
    return Sizes(tuple(free_data), tuple(free_latent), free_output, encoding, usual)


def _expression(
    symbol: str,
    axis: int,
    data: tuple[int, ...],
    latent: tuple[int, ...],
    run: Callable[[tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]],
) -> Expression:
    """Return the size of the data on an axis, in the size of the latent there."""
    size, failure = data[axis], None
    for larger in (2 * size, 2 * size - 1):  # causal video networks take one frame more than a multiple
        try:
            found, decoded = run((*data[:axis], larger, *data[len(data) + axis + 1 :]))
        except Exception as error:  # the network refuses this size with any error
            failure = error
            continue
        factor, rest = divmod(larger - size, max(found[axis] - latent[axis], 1))
        if rest == 0 and found[axis] > latent[axis] and decoded[axis] == larger:
            return Expression(symbol, factor, size - factor * latent[axis])
    raise failure or ModelError("axis does not scale", where=symbol, got=f"{data} and {latent}")


def _run(
    coders: tuple[MethodModule, MethodModule], data: tuple[int, ...]
) -> tuple[Encoding, tuple[int, ...], tuple[int, ...]]:
    """Return what the encoder gives, and the shapes of a row of the latent and of what the decoder gives."""
    encoder, decoder = coders
    with torch.no_grad():
        leaves = find_leaves(encoder(torch.empty(2, *data)))
        latent = leaves[0].tensor
        (decoded,) = (leaf.tensor for leaf in find_leaves(decoder(latent)) if leaf.tensor.ndim > 1)
    encoding: Encoding = "gaussian" if len(leaves) == 2 else "deterministic" if latent.is_floating_point() else "codes"
    return encoding, tuple(latent.shape[1:]), tuple(decoded.shape[1:])


def _contract(sizes: Sizes, config: Mapping[str, Any], model: nn.Module, options: ModelOptions) -> Contract:
    data = options.data_shape
    codebook = getattr(getattr(model, "quantize", None), "n_e", None)
    bounds = (-1.0, 1.0) if options.data_range is None else options.bounds
    contract = Contract(
        sizes.data,
        sizes.latent,
        bounds,
        data_name={1: "audio", 2: "image", 3: "video"}[len(sizes.factors)] if len(sizes.data) != 4 else "video",
        output_shape=sizes.output,
        encoding=sizes.encoding,
        codebook_size=codebook if sizes.encoding == "codes" else None,
        prior="uniform" if sizes.encoding == "codes" else "given by the user",
        symbols={name: Symbol(usual=value) for name, value in sizes.usual.items()},
        scaling_factor=float(config.get("scaling_factor") or 1.0),
        shift_factor=float(config.get("shift_factor") or 0.0),
    )
    if data is None:
        return contract.fixed({"t": sizes.usual["t"]}) if "t" in sizes.usual and len(sizes.usual) > 1 else contract
    return _at_shape(contract, data)


def _at_shape(contract: Contract, data: Shape) -> Contract:
    """Return the contract with the sizes that the user stated as numbers; an expression leaves a size free."""
    values: dict[str, int] = {}
    fits = len(data) == len(contract.data_shape)
    for size, stated in zip(contract.data_shape, data, strict=False):
        if isinstance(size, str) and isinstance(stated, int):
            expression = Expression.parse(size)
            value = expression.solve(stated)
            fits = fits and value is not None and value >= 1
            values[expression.symbol] = value or 1
        else:
            fits = fits and size == stated
    if not fits:
        raise ModelError(
            "shape does not fit the model",
            where="--data-shape",
            expected=shape_text(contract.data_shape),
            got=shape_text(data),
        )
    return contract.fixed(values) if values else contract


def _load(kind: Any, folder: Path) -> tuple[nn.Module, list[Path]]:
    """Return the model in float32, and the files of its weights."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError("no weights", where=folder, expected="*.safetensors", do="save with safe_serialization=True")
    plain = [file for file in files if re.fullmatch(r"[^.]+(-\d+-of-\d+)?\.safetensors", file.name)]
    variant = None if plain else files[0].name.split(".")[1].partition("-")[0]
    try:
        model, info = kind.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            ignore_mismatched_sizes=False,
            torch_dtype=torch.float32,
            output_loading_info=True,
            variant=variant,
        )
    except Exception as error:  # diffusers raises many kinds of errors for files that do not fit
        raise ModelError("weights cannot be loaded", where=folder, got=str(error).strip() or repr(error)) from error
    if misfits := [f"{what} {', '.join(info[key][:3])}" for key, what in _MISFITS.items() if info.get(key)]:
        raise ModelError("weights do not fit the model", where=folder, got="; ".join(misfits))
    return model.eval(), plain or files
