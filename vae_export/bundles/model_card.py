"""Write MODEL_CARD.md: the content of a bundle, its accuracy, and how it was verified.

The sections follow Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vae_export.artifact.certificate import METRIC, PROOFS, TYPICAL_PROBES, StoredCertificate
from vae_export.artifact.manifest import Manifest
from vae_export.contract import NORMAL, Contract, Encoding, Prior
from vae_export.tensors import Symbol, TensorSpec

#: The table entry for a figure that was not measured.
_MISSING = "—"
#: The first words on a model.
_KINDS: Mapping[Encoding, str] = {
    "gaussian": "A variational autoencoder",
    "deterministic": "An autoencoder whose encoder gives a latent without a distribution",
    "codes": "An autoencoder whose latents are codes",
}
#: What latents are drawn from.
_PRIORS: Mapping[Prior, str] = {
    NORMAL: "prior N(0, I)",
    "uniform": "prior uniform",
    "given by the user": "prior not known: the application draws them",
}
#: The text of the section "Limits", which is the same for every model of images.
_LIMITS = """\
The decoder gives an image for any finite latent, also for those that no image was encoded to: far from the origin its
images mean nothing. Samples look like the training data at their best; the network knows nothing else. Images that are
unlike the training data are encoded and reconstructed all the same, and wrongly."""
#: The same for other data, and for codes.
_LIMITS_OF_DATA = """\
The decoder gives data for any latent, also for those that no data was encoded to, and then it means nothing. Samples
look like the training data at their best; the network knows nothing else. Data that is unlike the training data is
encoded and reconstructed all the same, and wrongly."""
_HASHES = """\
The hashes in this bundle detect corruption. They are no signature, and do not show who made it: only `SHA256SUMS.sig`
does, where it is there and is checked with a key that you trust."""


def model_card(name: str, manifest: Manifest, certificate: StoredCertificate, notes: str = "") -> str:
    """Write the model card; equal arguments give equal text.

    Args:
        name: the title.
        manifest: the manifest of the bundle.
        certificate: the certificate of the bundle.
        notes: a section "Notes", in Markdown; empty for none.

    Returns:
        The card as Markdown.
    """
    degradations = certificate.document.get("drift") or []
    sections = {
        "Model": "\n".join(_model(manifest)),
        "Training": "\n".join(_training(manifest.provenance)),
        "Verification": "\n".join(_verification(certificate)),
        **({"Lower precision": "\n".join(_degradation_table(degradations))} if degradations else {}),
        "Files": "\n".join(_files(manifest)),
        "Limits": f"{_limits(manifest.contract)}\n\n{_HASHES}",
        **({"Notes": notes.strip()} if notes.strip() else {}),
    }
    return f"# {name}\n\n" + "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items()) + "\n"


def _limits(contract: Contract) -> str:
    is_plain = contract.encoding == "gaussian" and contract.data.name == "image"
    return _LIMITS if is_plain else _LIMITS_OF_DATA


def _model(manifest: Manifest) -> Iterator[str]:
    contract = manifest.contract
    yield f"{_KINDS[contract.encoding]}, exported for inference."
    yield ""
    for tensor in contract.tensors:
        yield f"- {tensor.name}: {tensor.dtype} ({', '.join(map(str, tensor.shape))}){_meaning(tensor, contract)}"
    if sizes := ", ".join(f"{name} {_bounds(symbol)}" for name, symbol in contract.symbols.items()):
        yield f"- sizes: {sizes}"
    if contract.likelihood is not None:
        second, unit = contract.likelihood.spread, "pixel" if len(contract.data_shape) == 3 else "value"
        spread = f", with `{contract.data.name}_{second}`" if second else ""
        yield f"- likelihood of a {unit}: {contract.likelihood}{spread}"
    if (contract.scaling_factor, contract.shift_factor) != (1.0, 0.0):
        yield f"- a diffusion model's latents: (latent - {contract.shift_factor:g}) · {contract.scaling_factor:g}"
    config = manifest.provenance.get("config")
    if isinstance(config, Mapping):
        plain = ((key, value) for key, value in sorted(config.items()) if not isinstance(value, list | dict))
        facts = ", ".join(f"{key} {value}" for key, value in plain)
        yield f"- network: {facts}"


def _meaning(tensor: TensorSpec, contract: Contract) -> str:
    """Return the range of a tensor, the prior of a latent, or the parts that take a condition."""
    integers = f", {tensor.low:g} to {tensor.high:g}"
    if tensor.role in ("latent", "codes"):
        return (integers if tensor.role == "codes" else "") + f", {_PRIORS[contract.prior or NORMAL]}"
    within = f", values in [{tensor.low:g}, {tensor.high:g}]" if tensor.is_bounded else ""
    if tensor.role == "condition":
        parts = next(condition.parts for condition in contract.conditions if condition.name == tensor.name)
        return (integers if tensor.is_integer else within) + f", for the {' and the '.join(parts)}"
    return within


def _bounds(symbol: Symbol) -> str:
    return symbol.bounds + (f", usually {symbol.usual}" if symbol.usual else "")


def _training(provenance: Mapping[str, Any]) -> Iterator[str]:
    training = provenance.get("training")
    if not isinstance(training, Mapping) or not isinstance(training.get("data"), Mapping):
        yield "Not known to the software that made this bundle."
        return
    data, settings = training["data"], training.get("training")
    yield f"- data: {data.get('name')}, protocol `{data.get('protocol')}`" + _counts(data.get("images"))
    if data.get("note"):
        yield f"- {data['note']}"
    if isinstance(settings, Mapping):
        yield "- settings: " + ", ".join(f"{key} {value}" for key, value in sorted(settings.items()))
    scores = training.get("scores")
    for split, figures in scores.items() if isinstance(scores, Mapping) else ():
        if isinstance(figures, Mapping) and "negative_elbo_nats_per_image" in figures:
            yield f"- {split}: −ELBO {figures['negative_elbo_nats_per_image']:.2f}{_error(figures)} nats per image"


def _counts(images: object) -> str:
    return (
        "; images: " + ", ".join(f"{key} {value:,}" for key, value in images.items())
        if isinstance(images, dict)
        else ""
    )


def _error(figures: Mapping[str, Any]) -> str:
    error = figures.get("negative_elbo_standard_error")
    return f" ± {error:.2f}" if isinstance(error, float) else ""


def _verification(certificate: StoredCertificate) -> Iterator[str]:
    document = certificate.document
    rows = [row for row in document.get("rows", ()) if isinstance(row, dict)]
    environment = document.get("environment", {})
    depth = "every setting" if environment.get("thorough") else "the quick set of settings"
    yield f"Every file was compared with the same network in float64: {len(rows):,} comparisons, {depth}, all passed."
    if (origin := environment.get("images", "real")) != "real":
        yield f"The inputs were {origin}."
    if (reason := document.get("nats_not_compared")) is not None:
        yield f"Scores in nats were not compared: {reason}."
    states = {name: item["state"] for name, item in document.get("reproduction", {}).items()}
    if states:
        equal = sum(state in PROOFS for state in states.values())
        yield f"Written anew from the model and compared: {equal} of {len(states)} files are what export writes."
    if unlike := [name for name, state in states.items() if state not in PROOFS]:
        names = ", ".join(f"`{name}`" for name in unlike)
        yield f"**Judged by their outputs alone, because they are not what export writes: {names}.**"
    if certificate.own_tolerance is not None:
        yield f"**The tolerance was set by the maker ({certificate.own_tolerance}), not derived from rounding errors.**"
    yield ""
    yield "The error is the largest for inputs such as an application has: random latents, images, interpolations."
    yield "The share of the tolerance is the largest for all inputs, which include extreme ones."
    yield ""
    yield "| part | target | largest error | share of tolerance |"
    yield "|---|---|---|---|"
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((str(row.get("part")), str(row.get("target"))), []).append(row)
    for (part, target), members in groups.items():
        scores = "scores of real images" if environment.get("images") == "real" else "scores of noise"
        name, unit = (scores, " nats") if part == METRIC else (part, "")
        share = max((row["error"] / row["band"] for row in members if row.get("band")), default=None)
        allowed = _MISSING if share is None else f"{share:.0%}"
        typical = [row["error"] for row in members if row.get("probe") in TYPICAL_PROBES]
        error = f"{max(typical):.2g}{unit}" if typical else _MISSING
        yield f"| {name} | `{target}` | {error} | {allowed} |"
    versions = ", ".join(f"{key} {value}" for key, value in sorted(environment.get("versions", {}).items()))
    yield ""
    yield f"Verified with {versions}. `certificate.json` has every figure."


def _degradation_table(degradations: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines on how much accuracy the files of lower precision lose, in pixels and nats."""
    yield "Files of lower precision were compared with PyTorch in the same precision. The table shows how far they are"
    yield "from the network in float64, on inputs as an application has them:"
    yield ""
    yield "| part | target | worst pixel, levels of 255 | mean pixel | −ELBO, nats per image (95 % interval) |"
    yield "|---|---|---|---|---|"
    for row in degradations:
        # Each of these figures is null if it was not measured.
        worst, mean, nats = _MISSING, _MISSING, _MISSING
        if row.get("worst_levels") is not None and row.get("mean_levels") is not None:
            worst, mean = str(row["worst_levels"]), f"{row['mean_levels']:.2g}"
        if all(row.get(name) is not None for name in ("nats", "nats_low", "nats_high")):
            nats = f"{row['nats']:+z.3f} ({row['nats_low']:+z.3f} to {row['nats_high']:+z.3f})"
        yield f"| {row['part']} | `{row['target']}` | {worst} | {mean} | {nats} |"


def _files(manifest: Manifest) -> Iterator[str]:
    yield "| file | part | format | numbers | bytes |"
    yield "|---|---|---|---|---|"
    for entry in manifest.files:
        for stored in entry.stored:
            yield f"| `{stored.name}` | {entry.part} | {entry.format} | {entry.precision} | {stored.size:,} |"
    yield ""
    yield "`golden/` has inputs with the outputs that they must give: test your application with them. What is in a"
    yield "bundle and how to read it: the page *The bundle format* of vae-export's documentation."
