"""The roofline's products are those of the graph, every library computes them, and no float32 subject passes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests import sample_models
from vae_export import Contract, Source
from vae_export.bench.kernels import Kernel, KernelTimer, available_libraries, multiply_adds
from vae_export.bench.roofline import MEMORY, PEAK, LeastTimes, Workload
from vae_export.bench.subjects import make_inputs
from vae_export.bench.workload import workload
from vae_export.capture import Graph, capture

PRODUCT = Kernel("product", (3, 20), (20, 7))
CONVOLUTION = Kernel(
    "convolution", (2, 6, 9, 8), (4, 3, 3, 2),
    stride=(2, 1), padding=(1, 0), dilation=(1, 2), output_padding=(0, 0), groups=2,
)  # fmt: skip
TRANSPOSED = Kernel(
    "convolution", (2, 6, 5, 5), (6, 2, 4, 4),
    stride=(2, 2), padding=(1, 1), dilation=(1, 1), output_padding=(1, 0), groups=3, transposed=True,
)  # fmt: skip


def counted(graph: Graph, rows: int) -> tuple[Workload, int]:
    """The workload of a graph, and PyTorch's own count of its operations."""
    from torch.utils.flop_counter import FlopCounterMode

    inputs = make_inputs(graph.spec, rows, {})
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        graph.module(*(torch.from_numpy(inputs[tensor.name]) for tensor in graph.spec.inputs))
    return workload(graph, inputs), int(counter.get_total_flops())


@pytest.mark.parametrize("name", ["mlp", "conv", "foreign"])
def test_operations_are_those_that_pytorch_counts(name: str) -> None:
    source = sample_models.foreign_source() if name == "foreign" else Source.of(sample_models.checkpoint(name))  # type: ignore[arg-type]
    graph = capture(source, "autoencoder")
    found, expected = counted(graph, 3)
    assert found.operations == expected > 0
    assert Workload.from_json(found.to_json()) == found
    tensors = [*graph.module.parameters(), *graph.module.buffers()]
    assert found.weight_bytes == sum(tensor.nbytes for tensor in tensors if tensor.dtype == torch.float32)
    # The foreign model has attention, whose products have no weights.
    assert {kernel.is_weight for kernel in found.products} == ({True, False} if name == "foreign" else {True})


class Attention(nn.Module):
    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(latent, latent * 2, latent * 3)


def test_attention_is_two_products_without_weights() -> None:
    contract = Contract(data_shape=(2, 5, 4), latent_shape=(2, 5, 4), data_range=None)
    graph = capture(Source(contract, decoder=Attention()), "decoder")
    found, _ = counted(graph, 3)
    assert dict(found.products) == {
        Kernel("product", (3, 2, 5, 4), (3, 2, 4, 5), is_weight=False): 1,
        Kernel("product", (3, 2, 5, 5), (3, 2, 5, 4), is_weight=False): 1,
    }


@pytest.mark.parametrize("kernel", [PRODUCT, CONVOLUTION, TRANSPOSED], ids=str)
def test_result_has_the_shape_and_the_operations_of_pytorch(kernel: Kernel) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    left, right = torch.ones(kernel.left), torch.ones(kernel.right)
    with FlopCounterMode(display=False) as counter:
        if kernel.kind == "product":
            result = left @ right
        else:
            settings = [kernel.stride, kernel.padding, kernel.dilation, kernel.transposed, kernel.output_padding]
            result = torch.convolution(left, right, None, *settings, kernel.groups)  # type: ignore[arg-type, call-arg]
    assert tuple(result.shape) == kernel.result_shape
    assert kernel.operations == counter.get_total_flops()


@pytest.mark.slow
@pytest.mark.parametrize("library", available_libraries())
def test_library_times_what_it_computes(library: str) -> None:
    timer, threads = KernelTimer(library), torch.get_num_threads()
    expected = {
        "torch": {"product", "convolution", "read"},
        "onnxruntime": {"product", "convolution"},
        "openvino": {"product", "convolution"},
        "numpy": {"product", "read"},
        "compiled": {"read", "multiply-add"},
    }[library]
    kernels = (PRODUCT, CONVOLUTION, TRANSPOSED, Kernel("read", (4096,)), PEAK)
    try:
        taken = {kernel: timer.least_nanoseconds(kernel, 1, 0.0) for kernel in kernels}
    finally:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(True)
    assert {kernel.kind for kernel, nanoseconds in taken.items() if nanoseconds} == expected
    assert {kernel.kind for kernel, nanoseconds in taken.items() if nanoseconds is None}.isdisjoint(expected)


def test_large_kernels_are_timed_again_without_being_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    timer, kernel = KernelTimer("numpy"), Kernel("product", (8, 16), (16, 32))
    monkeypatch.setattr("vae_export.bench.kernels._MAX_KEPT_BYTES", kernel.bytes - 1)
    assert kernel.bytes == 4 * (8 * 16 + 16 * 32 + 8 * 32)
    assert all(timer.least_nanoseconds(kernel, 1, 0.001) for _ in range(2))
    assert not timer._kept


def test_ways_of_a_library_compute_the_same() -> None:
    from vae_export.bench.kernels import _numpy_ways, _torch_ways

    grad = torch.is_grad_enabled()
    for kernel in (PRODUCT, CONVOLUTION):
        first, *others = (np.asarray(way()) for way in _torch_ways(kernel, torch.get_num_threads())[:2])
        assert others
        for other in others:
            np.testing.assert_allclose(other, first, rtol=1e-4, atol=1e-5)
    product = np.asarray(_torch_ways(PRODUCT, torch.get_num_threads())[0]())
    for way in _numpy_ways(PRODUCT, 1):
        np.testing.assert_allclose(np.asarray(way()), product, rtol=1e-4, atol=1e-5)
    torch.set_grad_enabled(grad)


def measured() -> tuple[LeastTimes, Workload]:
    found = Workload({PRODUCT: 2, CONVOLUTION: 1}, weight_bytes=400)
    least = LeastTimes()
    for kernel, seconds in ((PRODUCT, 3e-6), (CONVOLUTION, 5e-6), (found.weights, 1e-6), (MEMORY, 1e-2)):
        least.add(kernel, 1, "torch", 2 * seconds)
        least.add(kernel, 1, "numpy", seconds)
        least.add(kernel, 1, "numpy", 3 * seconds)
    return least, found


def test_roofline_takes_the_fastest_library_for_each_product() -> None:
    least, found = measured()
    least.add(PRODUCT, 1, "onnxruntime", 2e-6)
    roofline = least.roofline(("decoder", 1, 1), found, least.peak(1), None)
    assert roofline.seconds == pytest.approx(2 * 2e-6 + 5e-6)
    assert [(item.count, item.library) for item in roofline.products] == [(2, "onnxruntime"), (1, "numpy")]
    assert roofline.exceeded == 1


def test_who_may_use_two_threads_may_use_one() -> None:
    least, found = measured()
    least.add(PRODUCT, 2, "torch", 90e-6)
    least.add(CONVOLUTION, 2, "torch", 3e-6)
    assert least.roofline(("decoder", 1, 2), found, least.peak(2), None).seconds == pytest.approx(2 * 3e-6 + 3e-6)


def test_subject_that_is_faster_than_the_libraries_is_the_roofline_and_is_stated() -> None:
    least, found = measured()
    roofline = least.roofline(("decoder", 1, 1), found, least.peak(1), 8e-6)
    assert roofline.seconds == 8e-6
    assert roofline.exceeded == pytest.approx(11 / 8)
    assert least.roofline(("decoder", 1, 1), found, least.peak(1), 20e-6).seconds == pytest.approx(11e-6)


def test_reading_the_weights_is_the_roofline_where_it_takes_longer() -> None:
    least, found = measured()
    large = Workload(found.products, 4_000_000)
    least.add(large.weights, 1, "numpy", 1e-3)
    assert least.roofline(("decoder", 1, 1), large, least.peak(1), None).seconds == 1e-3


def test_peak_is_the_loop_or_else_the_quickest_product() -> None:
    least, _ = measured()
    peak = least.peak(1)
    assert peak.operations_source == str(CONVOLUTION)
    assert peak.operations_per_second == pytest.approx(CONVOLUTION.operations / 5e-6)
    assert peak.bytes_per_second == pytest.approx(MEMORY.read_bytes / 1e-2)
    if "compiled" in available_libraries():
        least.add(PEAK, 1, "compiled", 1e-6)
        assert least.peak(2).operations_source == "multiply-add"
        assert least.peak(2).operations_per_second == pytest.approx(2 * multiply_adds() / 1e-6)
