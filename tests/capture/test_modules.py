"""Modules as people write them: each is captured and written as ONNX, or refused with one line."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.sample_models import Lambda
from vae_export import Contract, Source
from vae_export.capture import Captured, Graph
from vae_export.capture.copying import copy_sharing_weights
from vae_export.capture.program import example_inputs
from vae_export.contract import Condition
from vae_export.errors import ModelError
from vae_export.formats import FORMATS, WriteOptions
from vae_export.parity.oracle import evaluate_graph
from vae_export.session_options import SessionOptions
from vae_export.tensors import Symbol


class Net(nn.Module):
    """latent (N, 4) → image (N, 1, 4, 4), through `middle`, which subclasses change."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 16)

    def middle(self, hidden: Tensor) -> Tensor:
        return hidden

    def forward(self, latent: Tensor) -> Tensor:
        return torch.sigmoid(self.last(self.middle(torch.relu(self.first(latent))))).view(-1, 1, 4, 4)


class Pooled(nn.Module):
    """Its inner nodes are called "mean" and "image" by PyTorch, as an output and an input are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.heads = nn.Conv2d(1, 6, 3), nn.Linear(6, 8)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.heads(self.conv(image).mean((2, 3))).chunk(2, 1)
        return mean, logvar


class FloatInside(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        return nn.functional.layer_norm(hidden.float(), (6,)).type(hidden.dtype)


class ConstantInside(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        return hidden @ torch.eye(6, dtype=torch.float32) + torch.full((6,), 0.5)


class NoAutocast(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return torch.tanh(hidden.float())


class PlainTensors(Net):
    def __init__(self) -> None:
        super().__init__()
        self.basis = torch.randn(6, 6)
        self.shifts = [torch.randn(6), {"deep": torch.randn(6)}]

    def middle(self, hidden: Tensor) -> Tensor:
        first, second = self.shifts
        return hidden @ self.basis + first + second["deep"]  # type: ignore[call-overload]


class Caches(Net):
    """Keeps an activation, which deepcopy refuses once the module was run with gradients."""

    def middle(self, hidden: Tensor) -> Tensor:
        self.cached = [hidden]
        self.seen = hidden
        return hidden


class CountsCalls(Net):
    """Changes a buffer that has no influence."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def middle(self, hidden: Tensor) -> Tensor:
        self.calls += 1
        return hidden


class WritesToInput(Net):
    def forward(self, latent: Tensor) -> Tensor:
        return super().forward(latent.mul_(2).sub_(1))


class DrawsForNothing(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        _ = hidden + torch.randn_like(hidden)
        return hidden


class ChecksValues(Net):
    """torch.distributions checks values, which is a branch on them."""

    def middle(self, hidden: Tensor) -> Tensor:
        return torch.distributions.Normal(hidden, hidden.exp()).mean


class NumpyNoise(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        return hidden + torch.from_numpy(np.random.default_rng().standard_normal(6, np.float32))


class PythonNoise(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        return hidden * random.random()


class TorchNoise(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        return hidden + torch.randn_like(hidden)


class Warmup(Net):
    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros(()))

    def middle(self, hidden: Tensor) -> Tensor:
        self.step += 1
        return hidden * (1 - torch.exp(-self.step))


class Alternates(Net):
    """Counts its calls in Python."""

    calls = 0

    def middle(self, hidden: Tensor) -> Tensor:
        self.calls += 1
        return hidden * (1 + self.calls % 2)


class CentresBatch(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        return hidden - hidden.mean(0)


class SumsUpBatch(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        return hidden.cumsum(0)


class TakesLogarithm(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        return (hidden - 99).log()


class HoldsLock(Net):
    def __init__(self) -> None:
        super().__init__()
        self.source = (number for number in range(3))


class Labelled(Net):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 6)
        self.gain = nn.Linear(2, 6)

    def forward(self, latent: Tensor, label: Tensor, style: Tensor) -> Tensor:  # type: ignore[override]
        hidden = self.first(latent) + self.table(label) + self.gain(style)
        return torch.sigmoid(self.last(hidden)).view(-1, 1, 4, 4)


class MapsRows(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        return torch.vmap(lambda row: row * row.norm())(hidden)


class FollowsGradient(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        slope = torch.func.vmap(torch.func.grad(lambda row: row.tanh().square().sum()))
        return hidden + slope(hidden)


class DifferentiatesItself(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        with torch.enable_grad():
            moved = hidden.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(moved.tanh().square().sum(), moved)
        return hidden + slope


class PacksSteps(Net):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(1, 6, batch_first=True)

    def middle(self, hidden: Tensor) -> Tensor:
        lengths = torch.full((len(hidden),), 6)
        packed = nn.utils.rnn.pack_padded_sequence(hidden[:, :, None], lengths, batch_first=True, enforce_sorted=False)
        return self.rnn(packed)[1][-1]


class PacksByValues(PacksSteps):
    def middle(self, hidden: Tensor) -> Tensor:
        lengths = (hidden > 0).sum(1).clamp(min=1).tolist()
        packed = nn.utils.rnn.pack_padded_sequence(hidden[:, :, None], lengths, batch_first=True, enforce_sorted=False)
        return self.rnn(packed)[1][-1]


class TwoLatents(Net):
    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(coarse + fine.flatten(1))


class FromCodes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.up = nn.Embedding(7, 3), nn.ConvTranspose2d(3, 1, 2, 2)

    def forward(self, codes: Tensor) -> Tensor:
        return torch.sigmoid(self.up(self.table(codes).permute(0, 3, 1, 2)))


class Quantiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 7, 2, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(image).argmax(1)


class LargeBatches(nn.Module):
    """Takes another path for batches of 64 and more, as diffusers' Upsample2D does."""

    def forward(self, hidden: Tensor) -> Tensor:
        if hidden.shape[0] >= 64:
            hidden = hidden.contiguous()
        return nn.functional.interpolate(hidden, scale_factor=2.0, mode="nearest")


class Coordinates(nn.Module):
    """Adds the place of each pixel."""

    def forward(self, hidden: Tensor) -> Tensor:
        height, width = hidden.shape[-2:]
        rows = torch.linspace(-1, 1, height, device=hidden.device, dtype=hidden.dtype)
        return hidden + rows[:, None] * torch.linspace(0.0, 2.0, steps=width)


class FixedSize(nn.Module):
    """Compares a size with a number, so that no other size can be captured."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden if hidden.shape[2] == 8 else hidden[:, :, 1:-1]


class FixedBatch(Net):
    """Takes its batch into Python."""

    def middle(self, hidden: Tensor) -> Tensor:
        return torch.stack([hidden[row] for row in range(int(hidden.shape[0]))])


def any_size(*middle: nn.Module) -> nn.Module:
    """latent (N, 4, h, w) → image (N, 1, 2h, 2w)."""
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), *middle, nn.ConvTranspose2d(4, 1, 2, 2), nn.Sigmoid())


def weight_normed(kind: Callable[[nn.Module], nn.Module]) -> nn.Module:
    net = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old functions are deprecated, and still met
        net.first = kind(net.first)  # type: ignore[assignment]
    return net


def compiled(net: nn.Module) -> nn.Module:
    wrapped = torch.compile(net, backend="eager")
    assert isinstance(wrapped, nn.Module)
    return wrapped


def used_with_gradients(net: nn.Module) -> nn.Module:
    net(torch.randn(3, 4))
    return net


@dataclass(frozen=True)
class Case:
    decoder: Callable[[], nn.Module] | None
    encoder: Callable[[], nn.Module] | None = None
    data: tuple[int | str, ...] = (1, 4, 4)
    latent: Any = (4,)
    options: dict[str, Any] = field(default_factory=dict)

    def source(self) -> Source:
        torch.manual_seed(0)
        contract = Contract(self.data, self.latent, **self.options)
        return Source(contract, self.encoder and self.encoder(), self.decoder and self.decoder())


SIZES: dict[str, Any] = {"data": (1, "2*h", "2*w"), "latent": (4, "h", "w")}
CAPTURED = {
    "names of inner nodes": Case(Net, Pooled),
    "float32 inside": Case(FloatInside),
    "constants inside": Case(ConstantInside),
    "autocast switched off": Case(NoAutocast),
    "plain tensors": Case(PlainTensors),
    "cached activation": Case(lambda: used_with_gradients(Caches())),
    "counter without influence": Case(CountsCalls),
    "writes to its input": Case(WritesToInput),
    "draw without influence": Case(DrawsForNothing),
    "checks of values": Case(ChecksValues),
    "old weight_norm": Case(lambda: used_with_gradients(weight_normed(nn.utils.weight_norm))),
    "weight_norm": Case(lambda: weight_normed(nn.utils.parametrizations.weight_norm)),
    "old spectral_norm": Case(lambda: used_with_gradients(weight_normed(nn.utils.spectral_norm))),
    "spectral_norm": Case(lambda: weight_normed(nn.utils.parametrizations.spectral_norm)),
    "half": Case(lambda: Net().half(), lambda: Pooled().bfloat16()),
    "compiled": Case(lambda: compiled(nn.Sequential(compiled(Net()))), lambda: nn.DataParallel(Pooled())),
    "conditions": Case(
        Labelled,
        options={
            "conditions": (
                Condition("label", (), "int64", 0, 4, ("decoder",)),
                Condition("style", (2,), parts=("decoder",)),
            )
        },
    ),
    "vmap": Case(MapsRows),
    "gradient of torch.func": Case(FollowsGradient),
    "gradient of autograd": Case(DifferentiatesItself),
    "several latents": Case(TwoLatents, latent={"coarse": (4,), "fine": (2, 2)}),
    "codes": Case(
        FromCodes, Quantiser, latent=(2, 2), options={"encoding": "codes", "codebook_size": 7, "code_dtype": "int64"}
    ),
    "table": Case(lambda: nn.Linear(4, 9), data=(9,), options={"data_range": None}),
    "deterministic latent": Case(
        lambda: nn.Linear(4, 9),
        lambda: nn.Linear(9, 4),
        data=(9,),
        options={"data_range": None, "encoding": "deterministic", "prior": "given by the user"},
    ),
    "any size": Case(lambda: any_size(nn.GroupNorm(2, 4)), **SIZES),
    "coordinates of any size": Case(lambda: any_size(Coordinates()), **SIZES),
    "any size from data": Case(any_size, lambda: nn.Conv2d(1, 4, 2, 2), options={"encoding": "deterministic"}, **SIZES),
    "bounded sizes": Case(any_size, options={"symbols": {"h": Symbol(2, 20), "w": Symbol(1, 9, 5)}}, **SIZES),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CAPTURED.values(), ids=CAPTURED.keys())
def test_module_is_captured_and_its_onnx_file_agrees(case: Case) -> None:
    captured = Captured(case.source())
    assert captured.contract == captured.given.contract
    assert captured.notes == ()
    for graph in captured.graphs().values():
        assert_onnx_agrees(graph)


def assert_onnx_agrees(graph: Graph) -> None:
    """The ONNX file has the contract's names and sizes, and computes what PyTorch computes at several batches."""
    run = FORMATS["onnx"].open(FORMATS["onnx"].write(graph, WriteOptions()), graph.spec, SessionOptions())
    batch = graph.spec.inputs[0].batch
    for rows in (1, 2, 5) if isinstance(batch, str) else (batch,):
        inputs = {
            tensor.name: value.numpy()
            for tensor, value in zip(graph.spec.inputs, example_inputs(graph.spec, rows, seed=rows), strict=True)
        }
        expected = evaluate_graph(graph, inputs)
        for name, output in run(inputs).items():
            np.testing.assert_allclose(output, expected[name], rtol=1e-5, atol=1e-5)


REFUSED = {
    "noise from NumPy": (Case(NumpyNoise), "no function of its inputs: two runs on the same inputs differ"),
    "noise from Python": (Case(PythonNoise), "no function of its inputs: two runs on the same inputs differ"),
    "noise from PyTorch": (Case(TorchNoise), "draws random numbers: decoder, operator aten.randn_like"),
    "counter in a buffer": (Case(Warmup), r"changes its own state: decoder, buffer 'decoder\.step'"),
    "counter in Python": (Case(Alternates), "two runs on the same inputs differ"),
    "mean of the batch": (Case(CentresBatch), "a row alone and in a batch differ"),
    "sum over the batch": (Case(SumsUpBatch), "rows in another order differ"),
    "not finite": (
        Case(TakesLogarithm),
        r"not finite: decoder, output 'image'; expected .* latent \(N, 4\), got 32 others",
    ),
    "not finite for any data": (
        Case(
            None,
            lambda: Lambda(lambda x: ((x - 99).flatten(1)[:, :4].log(), x.flatten(1)[:, :4])),
            options={"data_range": None},
        ),
        "not finite: encoder, output 'mean'; .* --data-range 0,1",
    ),
    "generator": (Case(HoldsLock), "cannot be copied: decoder, attribute 'source'; got TypeError"),
    "packed steps": (Case(PacksSteps), r"test_modules\.py, line \d+: return self\.rnn.*on the padded batch"),
    "lengths from values": (Case(PacksByValues), r"cannot be captured: decoder, test_modules\.py, line.*padded batch"),
    "TorchScript": (Case(lambda: traced(Net())), "is TorchScript: decoder"),
    "lazy": (Case(lambda: nn.Sequential(nn.LazyLinear(16), nn.Unflatten(1, (1, 4, 4)))), "is lazy: decoder"),
    "meta": (Case(lambda: Net().to("meta")), "is on the meta device: decoder.first"),
}


def traced(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        script: nn.Module = torch.jit.trace(module, torch.zeros(2, 4))
    return script


def scripted(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script: nn.Module = torch.jit.script(module)
    return script


@pytest.mark.parametrize("compiled", [traced, scripted])
def test_torchscript_inside_of_a_module_is_captured(compiled: Callable[[nn.Module], nn.Module]) -> None:
    inner = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Tanh()).eval()
    captured = Captured(Case(lambda: nn.Sequential(compiled(inner), nn.Unflatten(1, (1, 4, 4)))).source())
    assert not captured.notes  # the batch is free
    graph = captured.graph("decoder")
    latent = torch.randn(5, 4)
    with torch.no_grad():
        expected = inner(latent).view(-1, 1, 4, 4)
        assert torch.equal(graph.module(latent), expected)
        assert torch.equal(graph.program.module()(latent), expected)
        exact = graph.in_float64()(latent.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), expected)


@pytest.mark.parametrize(("case", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_module_is_refused(case: Case, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        _ = Captured(case.source()).contract
    assert "\n" not in str(caught.value)


NARROWED = {
    "smallest sizes": (
        Case(lambda: any_size(nn.InstanceNorm2d(4)), **SIZES),
        {"h": Symbol(2), "w": Symbol(2)},
        "size h is 2 or more, because the module fails at smaller ones",
    ),
    "batch": (
        Case(lambda: any_size(LargeBatches()), latent=(4, 2, 2), data=(1, 8, 8)),
        {"N": Symbol(1, 63)},
        "1 to 63",
    ),
    "size": (Case(lambda: any_size(FixedSize()), **SIZES), {"w": Symbol()}, "h cannot be dynamic"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("case", "symbols", "said"), NARROWED.values(), ids=NARROWED.keys())
def test_contract_is_narrowed_to_what_the_module_supports(case: Case, symbols: dict[str, Symbol], said: str) -> None:
    captured = Captured(case.source())
    assert captured.contract.symbols == symbols
    assert said in " ".join(captured.notes)
    for graph in captured.graphs().values():
        assert_onnx_agrees(graph)


@pytest.mark.slow
def test_sizes_at_which_the_module_fails_are_left_out() -> None:
    padded = any_size(nn.ReflectionPad2d(2))
    case = Case(lambda: nn.Sequential(*padded[:-2], nn.Conv2d(4, 4, 5), *padded[-2:]), **SIZES)
    captured = Captured(case.source())
    assert captured.contract.symbols == {"h": Symbol(3), "w": Symbol(3)}
    assert captured.notes[0].startswith("size h is 3 or more")


def test_batch_is_fixed_to_one_where_it_cannot_be_dynamic() -> None:
    captured = Captured(Case(FixedBatch).source())
    graph = captured.graph("decoder")
    assert captured.contract.max_batch == 1
    assert "batch cannot be dynamic" in captured.notes[0]
    assert (graph.spec.inputs[0].shape, graph.spec.outputs[0].shape) == ((1, 4), (1, 1, 4, 4))
    assert_onnx_agrees(graph)


def test_module_of_the_user_is_left_as_it_was() -> None:
    net = used_with_gradients(weight_normed(nn.utils.weight_norm)).half()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    _ = Captured(Case(lambda: net).source()).graph("decoder")
    assert net.training
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_copy_has_the_memory_of_large_weights_and_nothing_else_of_the_module() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    network[0].weight = network[1].weight = nn.Parameter(torch.ones(4, 4))
    copied = copy_sharing_weights(network)
    assert copied[0].weight is copied[1].weight  # weights that are tied stay so
    assert copied[0].weight.data_ptr() == network[0].weight.data_ptr()
    assert copied[1].running_mean.data_ptr() != network[1].running_mean.data_ptr()
    copied.double().requires_grad_(False)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in network.parameters())
