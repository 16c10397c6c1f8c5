"""Pages of contracts whose data is no image that can be shown: figures and charts, and no broken picture."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.report.sample_certificates import ONNX, Reader, certificate, error_map, read, result
from tests.report.sample_certificates import manifest as manifest_of
from vae_export.contract import Condition, Contract
from vae_export.parity.compare import CaseResult
from vae_export.report.certificate_page import Summary
from vae_export.tensors import Symbol

TABLE = Contract((13,), (4,), None)
AUDIO = Contract((1, 16000), (64, "t"), (-1.0, 1.0), symbols={"t": Symbol(1, 64, usual=50)})
VIDEO = Contract((3, "4*t", "8*h", "8*w"), (4, "t", "h", "w"), (-1.0, 1.0))
SIX_CHANNELS = Contract((6, 12, 12), (4,), (0.0, 1.0))
TWO_CHANNELS = Contract((2, 12, 12), (4,), (0.0, 1.0))
OPEN_IMAGES = Contract((3, "4*h", "4*w"), (8, "h", "w"), (-1.0, 1.0), output_shape=(3, "4*h", "4*w"))
CODES = Contract(
    (1, 12, 12), (3, 3), encoding="codes", codebook_size=32,
    conditions=(Condition("label", dtype="int64", low=0, high=9),),
)  # fmt: skip


def page_of(contract: Contract, *others: CaseResult) -> Reader:
    """The page of a decoder with this contract, and with an error map."""
    output = contract.output.name
    decoded = result(output=output)
    if not contract.output.is_image:
        decoded = replace(decoded, comparison=replace(decoded.comparison, grey=None))
    errors = {ONNX: error_map(contract)}
    whole = certificate((decoded, *others), error_maps=errors, nats_not_compared="the encoder gives codes")
    return read(whole, manifest_of(contract, ("encoder.onnx", "decoder.onnx")))


def pictures(page: Reader) -> list[str | None]:
    return [attributes.get("src") for tag, attributes in page.elements if tag == "img"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("contract", "said"),
    [
        (TABLE, "No pictures: the decoder gives no images in a range, but data (N, 13)."),
        (AUDIO, "No pictures: the decoder gives no images in a range, but data (N, 1, 16000) in [-1, 1]."),
        (VIDEO, "No pictures: the decoder gives no images in a range, but data (N, 3, 4*t, 8*h, 8*w) in [-1, 1]."),
        (SIX_CHANNELS, "No pictures: the images have 6 channels."),
    ],
    ids=["table", "audio", "video", "six-channels"],
)
def test_page_of_data_that_cannot_be_shown_has_charts_and_says_what_it_leaves_out(
    contract: Contract, said: str
) -> None:
    page = page_of(contract)
    assert not page.open
    assert not pictures(page)
    assert said in page.text
    assert "1.50×" in page.text
    assert any(attributes.get("class") == "chart" for tag, attributes in page.elements if tag == "svg")
    assert ("half a grey level" in page.text) == (contract is SIX_CHANNELS)
    assert "the encoder gives codes" in page.text


@pytest.mark.parametrize("contract", [TWO_CHANNELS, OPEN_IMAGES, CODES], ids=["two-channels", "open-sizes", "codes"])
def test_images_that_can_be_shown_are_shown(contract: Contract) -> None:
    page = page_of(contract)
    assert len(pictures(page)) == 5
    assert all(source is not None and source.startswith("data:image/png;base64,") for source in pictures(page))
    assert ("The 2 channels of an image are averaged." in page.text) == (contract is TWO_CHANNELS)


def test_page_states_every_tensor_of_the_contract() -> None:
    facts = page_of(CODES).text
    for said in ("image1 × 12 × 12", "codes3 × 3", "labelone number"):
        assert said in facts
    assert "data3 × 4*t × 8*h × 8*w" in page_of(VIDEO).text


def test_range_is_that_of_the_data_or_none() -> None:
    assert "Where the data may lie: here it has no range." in page_of(TABLE).text
    assert "Where the data may lie: here [-1, 1]. A value that leaves it" in page_of(AUDIO).text
    pixels = replace(result("decoder-uint8-hwc"), output="pixels")
    assert "One grey level is 0.00784, for pixels in [-1, 1]." in page_of(OPEN_IMAGES, pixels).text


def test_sizes_of_a_test_case_are_named_and_counted() -> None:
    sized = replace(result("encoder", "mean"), sizes=(("h", 2), ("w", 5)), batch=3, probe="zeros")
    whole = certificate((sized,), error_maps={})
    assert "zeros, batch 3, h 2, w 5; optimisation all, 1 thread" in read(whole, manifest_of(OPEN_IMAGES)).text
    assert Summary(whole, OPEN_IMAGES).numbers(whole.results) == 3 * 8 * 2 * 5
