"""Probes of contracts of every kind: conditions, several latents, codes, tables, open sizes, bounded batches."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.extended_models import extended_source
from vae_export import Contract, Source
from vae_export.capture import Captured, Graph
from vae_export.contract import Array, Condition, Part
from vae_export.errors import ModelError
from vae_export.parity.oracle import evaluate_graph, evaluate_rows
from vae_export.parity.overflow import largest_finite, largest_without_overflow
from vae_export.parity.probes import PROBES, SMALLEST, Arrays, Probe, make_probes
from vae_export.tensors import Symbol

CLASSES = 10
CONDITIONAL = Contract((13,), (4,), None, conditions=(Condition("label", dtype="int64", low=0, high=CLASSES - 1),))
TABLE = Contract((13,), (4,), None)


class TableEncoder(nn.Module):
    """data (N, 13), maybe label (N,) → mean, logvar, each (N, 4)."""

    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        self.body = nn.Linear(13 + classes, 8)
        self.classes = classes

    def forward(self, data: Tensor, *label: Tensor) -> tuple[Tensor, Tensor]:
        given = [data, *(F.one_hot(one, self.classes).to(data.dtype) for one in label)]
        mean, logvar = self.body(torch.cat(given, 1)).chunk(2, 1)
        return mean, logvar


class TableDecoder(nn.Module):
    """latent (N, 4), maybe label (N,) → data (N, 13)."""

    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        self.body = nn.Linear(4 + classes, 13)
        self.classes = classes

    def forward(self, latent: Tensor, *label: Tensor) -> Tensor:
        given = [latent, *(F.one_hot(one, self.classes).to(latent.dtype) for one in label)]
        made: Tensor = self.body(torch.cat(given, 1))
        return made


class Nearest(nn.Module):
    """image (N, 1, 8, 8) → codes (N, 4, 4), the nearest of 32 entries for each block of 2 x 2 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("entries", torch.rand(32, 4))

    def forward(self, image: Tensor) -> Tensor:
        blocks = F.unfold(image, 2, stride=2).transpose(1, 2)
        return torch.cdist(blocks, self.entries.expand(len(image), -1, -1)).argmin(-1).view(-1, 4, 4)  # type: ignore[operator]


class Lookup(nn.Module):
    """codes (N, 4, 4) → image (N, 1, 8, 8) in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = nn.Embedding(32, 4)

    def forward(self, codes: Tensor) -> Tensor:
        return F.pixel_shuffle(self.entries(codes).permute(0, 3, 1, 2), 2).sigmoid()


#: All probes whose inputs are not searched, for which graphs must be captured.
NOT_SEARCHED = [name for name in PROBES if name != "extreme"]


def probes_of(source: Source, count: int = 12, **options: object) -> dict[str, Mapping[str, Array]]:
    options = {"names": NOT_SEARCHED, **options}
    return {probe.name: probe.arrays for probe in make_probes(source, graphs(source), count, **options)}  # type: ignore[arg-type]


def graphs(source: Source) -> dict[Part, Graph]:
    """The encoder and the decoder as graphs, without capturing them."""
    modules: dict[Part, nn.Module | None] = {"encoder": source.encoder, "decoder": source.decoder}
    return {part: Graph(source.contract.spec(part), module) for part, module in modules.items() if module is not None}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_probes_of_conditions_take_every_class_the_lowest_and_the_highest() -> None:
    source = Source(CONDITIONAL, TableEncoder(CLASSES), TableDecoder(CLASSES))
    probes = probes_of(source)
    assert list(probes) == NOT_SEARCHED
    for name, arrays in probes.items():
        assert set(arrays) == {"data", "latent", "noise", "label"}, name
        assert arrays["label"].dtype == np.int64
        assert arrays["label"].shape == (12,)
        assert arrays["data"].shape == (12, 13)
    assert set(probes["prior"]["label"]) == set(range(CLASSES))
    assert set(probes["zeros"]["label"]) == {0}
    assert set(probes["largest"]["label"]) == {CLASSES - 1}


def test_decoded_data_has_the_condition_of_its_probe() -> None:
    source = Source(CONDITIONAL, TableEncoder(CLASSES), decoder := TableDecoder(CLASSES))
    for name in ("prior", "posterior", "interpolation"):
        arrays = probes_of(source)[name]
        given = (torch.from_numpy(arrays[tensor]) for tensor in ("latent", "label"))
        assert np.array_equal(arrays["data"], decoder(*given).detach().numpy()), name


def test_real_conditions_come_with_real_data() -> None:
    rng = np.random.default_rng(0)
    data, label = rng.standard_normal((5, 13)).astype(np.float32), np.array([3, 1, 4, 1, 5])
    source = Source(CONDITIONAL, TableEncoder(CLASSES), TableDecoder(CLASSES), {"data": data, "label": label})
    probes = probes_of(source, 7)
    assert np.array_equal(probes["data"]["data"], data[[0, 1, 2, 3, 4, 0, 1]])
    for name in ("data", "posterior", "interpolation"):
        assert probes[name]["label"].tolist() == [3, 1, 4, 1, 5, 3, 1]
    with pytest.raises(ModelError, match="wrong examples: images; expected"):
        Source(CONDITIONAL, decoder=TableDecoder(CLASSES), images={"label": label})
    with pytest.raises(ModelError, match="wrong shape: tensor 'label'"):
        Source(CONDITIONAL, decoder=TableDecoder(CLASSES), images={"data": data, "label": label[:4]})


def test_rows_of_few_examples_reach_classes_that_one_probe_does_not() -> None:
    probes = probes_of(Source(CONDITIONAL, decoder=TableDecoder(CLASSES)), 3)
    assert {label for arrays in probes.values() for label in arrays["label"].tolist()} == set(range(CLASSES))


def test_float_conditions_are_in_their_range() -> None:
    conditions = (Condition("age", (1,), low=18, high=90, parts=("decoder",)), Condition("size", (3,)))
    source = Source(Contract((13,), (4,), None, conditions=conditions), decoder=TableDecoder())
    for arrays in make_probes(source, {}, 9):
        age, size = arrays.arrays["age"], arrays.arrays["size"]
        assert (age.shape, size.shape, age.dtype, size.dtype) == ((9, 1), (9, 3), np.float32, np.float32)
        assert 18 <= age.min() <= age.max() <= 90
    assert probes_of_conditions(source, "zeros") == {18.0}
    assert probes_of_conditions(source, "largest") == {90.0}


def probes_of_conditions(source: Source, name: str) -> set[float]:
    [probe] = make_probes(source, {}, 9, names=[name])
    return set(probe.arrays["age"].ravel().tolist())


def test_unbounded_data_is_scaled_to_where_the_encoder_is_finite() -> None:
    source = Source(TABLE, encoder := TableEncoder(), TableDecoder())
    probes = probes_of(source)
    largest = probes["largest"]["data"]
    assert np.isfinite(largest).all()
    assert len(np.unique(np.abs(largest))) == 1
    assert (largest < 0).any()
    assert (largest > 0).any()
    outputs = evaluate_graph(Graph(TABLE.spec("encoder"), encoder), {"data": largest})
    assert all(np.isfinite(array).all() for array in outputs.values())
    assert np.abs(largest).max() > 1e20
    assert set(np.abs(probes["smallest"]["data"]).ravel()) == {np.float32(SMALLEST)}
    assert abs(probes["data"]["data"].std() - 1) < 0.2
    assert probes["zeros"]["data"].max() == 0


def test_several_latents_differ_and_each_has_its_noise() -> None:
    contract = Contract((13,), {"low": (4,), "high": (2, 3)}, None)
    probes = probes_of(Source(contract, decoder=TableDecoder()), 6, names=("prior", "zeros", "one-hot"))
    assert set(probes["prior"]) == {"low", "high", "low_noise", "high_noise"}
    assert probes["prior"]["high"].shape == (6, 2, 3)
    assert probes["prior"]["low"][0, 0] != probes["prior"]["high"][0, 0, 0]
    assert probes["one-hot"]["high"].sum() == probes["one-hot"]["low"].sum() == 6


def test_codes_are_drawn_from_the_whole_codebook() -> None:
    contract = Contract((1, 8, 8), (4, 4), encoding="codes", codebook_size=32, code_dtype="int64")
    source = Source(contract, Nearest(), Lookup())
    probes = probes_of(source, 4)
    for name, arrays in probes.items():
        if "codes" in arrays:
            assert (arrays["codes"].dtype, arrays["codes"].shape) == (np.int64, (4, 4, 4)), name
            assert 0 <= arrays["codes"].min() <= arrays["codes"].max() <= 31
        assert "noise" not in arrays
    assert set(probes["zeros"]["codes"].ravel()) == {0}
    assert set(probes["largest"]["codes"].ravel()) == {31}
    assert set(probes["six-sigma"]["codes"].ravel()) == set(range(32))
    encoded = source.encoder(torch.from_numpy(probes["data"]["image"])).numpy()  # type: ignore[misc]
    assert np.array_equal(probes["data"]["codes"], encoded)
    assert np.array_equal(probes["interpolation"]["codes"][0], encoded[0])
    assert np.array_equal(probes["interpolation"]["codes"][-1], encoded[0])  # the next of the last row is the first
    assert len(np.unique(probes["prior"]["codes"])) > 20


def test_tokens_are_drawn_from_their_whole_range() -> None:
    source = extended_source("tokens")
    probes = probes_of(source, 16)
    tokens = {name: arrays["data"] for name, arrays in probes.items() if "data" in arrays}
    assert tokens.keys() == {"prior", "data", "zeros", "six-sigma", "interpolation", "largest", "noise"}
    assert {(array.dtype, array.shape) for array in tokens.values()} == {(np.dtype(np.int64), (16, 6))}
    assert set(tokens["zeros"].ravel()) == {0}
    assert set(tokens["largest"].ravel()) == {19}
    assert set(tokens["six-sigma"].ravel()) == set(range(20))
    for name in ("prior", "data", "noise"):
        assert len(set(tokens[name].ravel())) > 16, name


def test_latents_of_a_users_prior_look_like_the_encoders() -> None:
    encoder = TableEncoder()
    with torch.no_grad():
        encoder.body.weight[:4] *= 10
        encoder.body.bias[:4] = 100.0
        encoder.body.bias[4:] += 4.0  # deviations of about 7, which sampled latents have as well
    contract = Contract((13,), (4,), None, prior="given by the user")
    latents = probes_of(Source(contract, encoder), 64)["prior"]["latent"]
    assert 90 < latents.mean() < 110
    assert 7 < latents.std() < 30
    alone = probes_of(Source(contract, decoder=TableDecoder()), 64)["prior"]["latent"]
    assert abs(alone.mean()) < 0.3


def test_open_sizes_take_usual_values_or_given_ones() -> None:
    symbols = {"h": Symbol(2, 64, usual=6), "w": Symbol()}
    contract = Contract((3, "4*h", "4*w"), (8, "h", "w"), symbols=symbols)
    decoder = nn.ConvTranspose2d(8, 3, 4, 4)
    images = np.random.default_rng(0).uniform(0, 1, (2, 3, 20, 40)).astype(np.float32)
    source = Source(contract, nn.Conv2d(3, 16, 4, 4), decoder, images)
    [usual] = make_probes(source, {}, 3, names=["data"])
    assert usual.arrays["image"].shape == (3, 3, 24, 32)
    assert np.array_equal(usual.arrays["image"][0, :, :20], images[0, :, :, :32])
    assert np.array_equal(usual.arrays["image"][0, :, 20:], images[0, :, :4, :32])
    [other] = make_probes(source, {}, 3, contract=contract.at({"h": 2, "w": 5}), names=["prior"])
    assert other.arrays["latent"].shape == (3, 8, 2, 5)


def test_probes_that_are_left_out_do_not_change_the_others() -> None:
    source = Source(CONDITIONAL, TableEncoder(CLASSES), TableDecoder(CLASSES))
    every = {probe.name: probe for probe in make_probes(source, graphs(source), 5, names=NOT_SEARCHED)}
    for name in NOT_SEARCHED:
        [alone] = make_probes(source, graphs(source), 5, names=[name])
        assert alone.arrays.keys() == every[name].arrays.keys()
        assert all(np.array_equal(alone.arrays[key], array) for key, array in every[name].arrays.items())


class AtMost(nn.Module):
    """A module that runs on `low` to `high` rows only."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, latent: Tensor) -> Tensor:
        assert self.low <= len(latent) <= self.high
        return latent * 2


@pytest.mark.parametrize(("low", "high"), [(1, 3), (4, 4), (2, 5), (8, 8), (1, 1)])
def test_rows_are_cut_into_batches_that_the_graph_allows(low: int, high: int) -> None:
    contract = Contract((3,), (3,), None, symbols={"N": Symbol(low, high)})
    latent = np.arange(21, dtype=np.float32).reshape(7, 3)
    outputs = evaluate_rows(Graph(contract.spec("decoder"), AtMost(low, high)), {"latent": latent, "unused": latent})
    assert np.array_equal(outputs["data"], latent * 2)


@pytest.mark.parametrize("overflow", [*range(4, 129), 500])
def test_largest_is_eight_powers_below_overflow(overflow: int) -> None:
    calls: list[float] = []

    def is_finite(size: float) -> bool:
        calls.append(size)
        return size < 2.0**overflow

    assert largest_finite(is_finite) == 2.0 ** max(min(overflow - 1, 127) - 8, 0)
    assert len(calls) <= 16
    assert largest_finite(lambda size: size < 8) is None


class RootMeanSquare(nn.Module):
    """The sum of four squares overflows at 2^63, and the output is 0."""

    def forward(self, values: Tensor) -> Tensor:
        return values * torch.rsqrt(values.square().mean(1, keepdim=True) + 1e-5)


class Masked(nn.Module):
    """Has -inf inside for any input."""

    def forward(self, values: Tensor) -> Tensor:
        masked = values.masked_fill(torch.tensor([True, False, False, False]), -torch.inf)
        return values * masked.softmax(1) / 2**10


@pytest.mark.parametrize(
    ("module", "exponent"),
    [(RootMeanSquare(), 62), (nn.RMSNorm(4), 62), (nn.LayerNorm(4), 62), (nn.GroupNorm(1, 4), 62), (Masked(), 127)],
    ids=["mean of squares", "RMSNorm", "LayerNorm", "GroupNorm", "mask"],
)
def test_no_operator_overflows_inside(module: nn.Module, exponent: int) -> None:
    spec = Contract((4,), (4,), None).spec("decoder")

    def sized(size: float) -> Arrays:
        return {"latent": np.array([[size, -size, size, -size]], np.float32)}

    assert largest_without_overflow(Graph(spec, module), sized) == 2.0 ** (exponent - 8)


def test_probe_without_an_input_of_a_part_gives_none() -> None:
    probe = Probe("prior", {"latent": np.zeros((3, 4), np.float32)})
    assert probe.inputs(TABLE.spec("encoder"), 2) is None
    assert probe.inputs(TABLE.spec("decoder"), 2)["latent"].shape == (2, 4)  # type: ignore[index]


def test_condition_of_one_part_is_no_input_of_the_other() -> None:
    class Styled(nn.Module):
        def forward(self, latent: Tensor, style: Tensor) -> Tensor:
            return latent + style

    contract = Contract((4,), (4,), None, conditions=(Condition("style", (4,), parts=("decoder",)),))
    encoder = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
    captured = Captured(Source(contract, encoder, Styled()))
    (probe,) = make_probes(captured.source, captured.graphs(), 3, names=["extreme"])
    assert probe.arrays["style"].shape == probe.arrays["data"].shape == (3, 4)
