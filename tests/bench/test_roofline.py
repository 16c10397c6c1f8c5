"""The bare products are those of the graph, and give what the graph's own products give."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.conftest import Exported
from vae_export.bench.roofline import _convolution, _matrix_product, operations, products, weights
from vae_export.bench.subjects import make_inputs
from vae_export.capture import capture


@pytest.mark.parametrize("name", ["mlp", "conv", "foreign"])
def test_every_family_has_products_and_weights(exported: Callable[[str], Exported], name: str) -> None:
    graph = capture(exported(name).source, "autoencoder")
    inputs = make_inputs(graph.spec, 3)
    before = torch.get_num_threads()
    for limit in (products, weights):
        with limit(graph, 1).bind(inputs) as bound:
            bound.call()
    assert torch.get_num_threads() == before
    assert operations(graph, inputs) == 3 * operations(graph, make_inputs(graph.spec, 1)) > 0


def test_each_way_of_a_product_gives_the_same() -> None:
    torch.manual_seed(0)
    left, weight = torch.randn(5, 7), torch.randn(3, 7)
    for way in _matrix_product(left, weight.t()):
        torch.testing.assert_close(way(), left @ weight.t())
    image, kernel = torch.randn(2, 4, 8, 8), torch.randn(6, 4, 3, 3)
    rest = [[1, 1], [1, 1], [1, 1], False, [0, 0], 1]
    first, second = (way() for way in _convolution(image, kernel, rest))
    torch.testing.assert_close(first, second)
