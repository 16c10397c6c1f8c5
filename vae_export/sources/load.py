"""Models that a text names: `diffusers:FOLDER`, `pythae:FOLDER`, `package.module:function`, `file.py:function`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vae_export.errors import UsageError
from vae_export.sources.base import Source
from vae_export.sources.options import (
    ModelOptions,
    parse_condition,
    parse_latents,
    parse_range,
    parse_shape,
    parse_weights,
)

#: How a model is named.
FORMS = "diffusers:FOLDER | pythae:FOLDER | package.module:function | file.py:function"
_FOLDERS = ("diffusers", "pythae")


@dataclass(frozen=True)
class NamedModel:
    """A model and what is stated about it, as the command line takes them; `open` returns the source.

    Attributes:
        text: the name, in one of `FORMS`.
        weights: FILE, or encoder=FILE and decoder=FILE.
        weights_key: the entry of the file to read, such as "ema".
        data_shape: such as "3x64x64", or "3x8*hx8*w" where sizes are free.
        latent_shape: such as "128" or "4xhxw", or "z1=8,z2=4" of several latents.
        data_range: such as "0,1", "-1,1" or "none".
        encoder_outputs: such as "latent,mean,logvar".
        decoder_output: such as "px_rate", "0" or "dist.mean".
        conditions: such as "label:int64:10".
        codes: the number of codes of a model that gives codes.
        tokens: the number of tokens, of data that is integers below it.
    """

    text: str
    weights: tuple[str, ...] = ()
    weights_key: str | None = None
    data_shape: str | None = None
    latent_shape: str | None = None
    data_range: str | None = None
    encoder_outputs: str | None = None
    decoder_output: str | None = None
    conditions: tuple[str, ...] = ()
    codes: int | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        _, _, rest = self.text.partition(":")
        if not rest:
            raise UsageError("bad model", where="--model", expected=FORMS, got=self.text)
        if self.tokens is not None and self.data_range is not None:
            raise UsageError("--data-range does not go with --tokens", got=self.data_range, do="leave it out")

    @property
    def name(self) -> str:
        """A name for folders and titles: of the folder of weights, or of the function."""
        kind, _, rest = self.text.partition(":")
        if kind in _FOLDERS:
            folder = Path(rest).absolute()
            inner = folder.name == "final_model" or (folder.parent / "model_index.json").is_file()
            return folder.parent.name if inner else folder.name
        module, _, function = self.text.rpartition(":")
        stem = Path(module).stem if module.endswith(".py") else module.rpartition(".")[2]
        return f"{stem}-{function}"

    def options(self) -> ModelOptions:
        """Return what is stated, read; raise `UsageError` for a text that is not valid."""
        from vae_export.sources.recognition import read_meanings

        words = None if self.encoder_outputs is None else re.split(r"\s*,\s*", self.encoder_outputs.strip())
        return ModelOptions(
            weights=parse_weights(self.weights),
            weights_key=self.weights_key,
            data_shape=None if self.data_shape is None else parse_shape(self.data_shape, "--data-shape"),
            latent_shape=None if self.latent_shape is None else parse_latents(self.latent_shape),
            data_range=None if self.data_range is None else parse_range(self.data_range),
            encoder_outputs=read_meanings(words),
            decoder_output=self.decoder_output,
            conditions=tuple(parse_condition(text) for text in self.conditions),
            codebook_size=self.codes,
            tokens=self.tokens,
        )

    def open(self) -> Source:
        """Return the source.

        Raises:
            UsageError: the name or an option is not valid.
            ModelError: the model cannot be read, does not fit its weights, or is not clear.
            MissingExtraError: a package is not installed.
        """
        from vae_export.system.extras import require

        require("export", "torch", "safetensors")
        source = self._open(self.options())
        return replace(source, provenance={"name": self.name, **source.provenance})

    def _open(self, options: ModelOptions) -> Source:
        kind, _, rest = self.text.partition(":")
        if kind == "diffusers":
            from vae_export.sources.diffusers import open_diffusers

            self._refuse_unused()
            return open_diffusers(Path(rest), options)
        if kind == "pythae":
            from vae_export.sources.pythae import open_pythae

            self._refuse_unused()
            return open_pythae(Path(rest), options)
        near = difflib.get_close_matches(kind.lower(), _FOLDERS, 1, 0.8)
        if near and Path(rest).is_dir():  # no function
            do = f"did you mean {near[0]}:{rest}?"
            raise UsageError("bad model", where="--model", expected=FORMS, got=self.text, do=do)
        from vae_export.sources.torch_module import open_function

        return open_function(self.text, options)

    def _refuse_unused(self) -> None:
        """Raise `UsageError` for options that the folder of a model answers itself."""
        functions_only = ("weights", "weights_key", "latent_shape", "encoder_outputs", "decoder_output")
        for name in (*functions_only, "conditions", "codes", "tokens"):
            if value := getattr(self, name):
                flag = "--condition" if name == "conditions" else f"--{name.replace('_', '-')}"
                kind = self.text.partition(":")[0]
                raise UsageError(f"{flag} does not go with {kind}:FOLDER", got=value, do="leave it out")

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON, for child processes."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> NamedModel:
        """Return the model that `to_json` wrote."""
        values: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in data.items()}
        return cls(**values)


def load_source(
    model: str,
    *,
    weights: str | Sequence[str] = (),
    weights_key: str | None = None,
    data_shape: str | None = None,
    latent_shape: str | None = None,
    data_range: str | None = None,
    encoder_outputs: str | None = None,
    decoder_output: str | None = None,
    conditions: Sequence[str] = (),
    codes: int | None = None,
    tokens: int | None = None,
) -> Source:
    """Return the source of a model that a text names, as `vae-export export --model` takes it.

    Args:
        model: `diffusers:FOLDER`, `pythae:FOLDER`, `package.module:function` or `file.py:function`.
        weights: FILE, or ["encoder=FILE", "decoder=FILE"].
        weights_key: the entry of the file to read, such as "ema".
        data_shape: shape of one row of the data, such as "3x64x64", or "3x8*hx8*w" where sizes are free.
        latent_shape: shape of one row of the latent, such as "128", or "z1=8,z2=4" of several; None infers it.
        data_range: "0,1", "-1,1" or "none"; None infers it.
        encoder_outputs: what the encoder returns, such as "latent,mean,logvar"; None infers it.
        decoder_output: the data in what the decoder returns, such as "px_rate", "0" or "dist.mean"; None infers it.
        conditions: further inputs, such as "label:int64:10".
        codes: the number of codes of a model that gives codes; None infers it.
        tokens: the number of tokens, of data that is integers below it; None for floats.

    Returns:
        The source, whose provenance says what was inferred.

    Raises:
        UsageError: an argument is not valid.
        ModelError: the model cannot be read, does not fit its weights, or is not clear.
        MissingExtraError: a package is not installed.
    """
    named = NamedModel(
        model,
        weights=(weights,) if isinstance(weights, str) else tuple(weights),
        weights_key=weights_key,
        data_shape=data_shape,
        latent_shape=latent_shape,
        data_range=data_range,
        encoder_outputs=encoder_outputs,
        decoder_output=decoder_output,
        conditions=tuple(conditions),
        codes=codes,
        tokens=tokens,
    )
    return named.open()
