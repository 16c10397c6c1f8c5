"""The source of an export: an encoder, a decoder and their contract, from any origin."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vae_export.contract import Array, Contract, Part
from vae_export.errors import ModelError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from vae_export.models.checkpoint import Checkpoint
    from vae_export.sources.recognition import Recognised


@dataclass(frozen=True)
class Source:
    """The model that is exported, and that parity compares exported files with.

    Attributes:
        contract: shapes and ranges.
        encoder: image (N, C, H, W) → (mean, logvar), each (N, *latent); None exports no encoder.
        decoder: latent (N, *latent) → image (N, C, H, W) in the contract's range, or a tuple of it and the likelihood's
            second output (see `vae_export.likelihood`); None exports no decoder.
        images: real data (M, *item), float32 in the contract's range, that parity probes with. A mapping by tensor name
            also has the conditions of these rows. None lets parity probe with noise, and the certificate says so.
        provenance: where the model comes from; must be JSON. Goes into the manifest and every file's metadata.
        encoder_outputs: what the encoder returns, in order, such as ("latent", "mean", "logvar"): words of
            `vae_export.sources.module_outputs.MEANINGS`. None recognises it.
        composes: whether the decoder takes the latent that the encoder describes. Without it there is no autoencoder,
            as where a normalizing flow lies between the two.

    What the modules return need not be tensors in this order: see `vae_export.sources.recognition`.

    Raises:
        ModelError: no module at all, a provenance that is not JSON, or images that do not fit the contract.
    """

    contract: Contract
    encoder: nn.Module | None = None
    decoder: nn.Module | None = None
    images: Array | Mapping[str, Array] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    encoder_outputs: Sequence[str] | None = None
    composes: bool = True

    def __post_init__(self) -> None:
        if not self.parts:
            raise ModelError("nothing to export", expected="an encoder, a decoder, or both")
        try:
            json.dumps(dict(self.provenance), sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ModelError("provenance is not JSON", got=str(error)) from error
        self._check_examples()

    def _check_examples(self) -> None:
        """Raise `ModelError` unless the examples have the data, and fit the contract."""
        tensors = {item.name: item for item in (self.contract.data, *(c.tensor for c in self.contract.conditions))}
        examples = self.examples
        if examples and (set(examples) - set(tensors) or self.contract.data.name not in examples):
            raise ModelError("wrong examples", where="images", expected=list(tensors), got=list(examples))
        rows: int | None = None
        sizes: dict[str, int] = {}
        for name, array in examples.items():
            tensors[name].check(array, batch=rows, sizes=sizes)
            rows = len(array)

    @classmethod
    def of(cls, source: Source | Checkpoint) -> Source:
        """Return a checkpoint as a source, or a source unchanged; raise `UsageError` for anything else."""
        if isinstance(source, Source):
            return source
        import numpy as np

        from vae_export.models.checkpoint import Checkpoint

        if not isinstance(source, Checkpoint):
            do = "pass Source(contract, encoder, decoder), or what load_source or load_checkpoint returns"
            raise UsageError("not a model to export", expected="a Source", got=type(source).__name__, do=do)

        model = source.model()
        images = source.examples.numpy().astype(np.float32) / 255 if len(source.examples) else None
        provenance = {
            "checkpoint_sha256": source.sha256,
            "config": source.config.to_json(),
            "training": dict(source.provenance),
        }
        return cls(source.config.contract, model.encoder, model.decoder, images, provenance)

    @cached_property
    def recognised(self) -> Recognised:
        """The modules with inputs and outputs as the contract has them; raise `ModelError` where that is not clear."""
        from vae_export.sources.recognition import recognise

        return recognise(
            self.contract,
            self.encoder,
            self.decoder,
            encoder_outputs=self.encoder_outputs,
            images=self.examples.get(self.contract.data.name),
        )

    @property
    def examples(self) -> Mapping[str, Array]:
        """Real data, and conditions where there are some, by tensor name; empty without any."""
        if self.images is None:
            return {}
        return self.images if isinstance(self.images, Mapping) else {self.contract.data.name: self.images}

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of `PARTS` that these modules have; with a decoder, `capture` also makes those of `PIXELS`."""
        parts: list[Part] = []
        if self.encoder is not None:
            parts.append("encoder")
        if self.decoder is not None:
            parts.append("decoder")
        if self.encoder is not None and self.decoder is not None and self.composes:
            parts.append("autoencoder")
        return tuple(parts)


def described(source: Source) -> Source:
    """Return the source with what was found about its modules in the provenance, under "inferred"."""
    inferred = dict(source.provenance.get("inferred") or {}) | dict(source.recognised.facts)
    return replace(source, provenance={**source.provenance, "inferred": inferred})
