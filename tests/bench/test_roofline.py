"""The products of the roofline are those of the graph, and each way to compute one gives the same."""

from __future__ import annotations

import pytest
import torch

from tests import sample_models
from vae_export import Source
from vae_export.bench.roofline import (
    convolution_variants,
    matrix_product_variants,
    operations,
    products,
    weights,
)
from vae_export.bench.subjects import make_inputs
from vae_export.capture import capture


@pytest.mark.parametrize("name", ["mlp", "conv", "foreign"])
def test_every_family_has_products_and_weights(name: str) -> None:
    source = sample_models.foreign_source() if name == "foreign" else Source.of(sample_models.checkpoint(name))  # type: ignore[arg-type]
    graph = capture(source, "autoencoder")
    inputs = make_inputs(graph.spec, 3)
    before = torch.get_num_threads()
    for roofline in (products, weights):
        with roofline(graph, 1).bind(inputs) as bound:
            bound.call()
    assert torch.get_num_threads() == before
    assert operations(graph, inputs) == 3 * operations(graph, make_inputs(graph.spec, 1)) > 0


def test_variants_of_a_product_agree() -> None:
    torch.manual_seed(0)
    left, weight = torch.randn(5, 7), torch.randn(3, 7)
    for variant in matrix_product_variants(left, weight.t()):
        torch.testing.assert_close(variant(), left @ weight.t())
    image, kernel = torch.randn(2, 4, 8, 8), torch.randn(6, 4, 3, 3)
    rest = [[1, 1], [1, 1], [1, 1], False, [0, 0], 1]
    first, second = (variant() for variant in convolution_variants(image, kernel, rest))
    torch.testing.assert_close(first, second)
