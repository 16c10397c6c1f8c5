"""Summaries and pictures on the page: counts, strips and error maps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.report.sample_certificates import COLOUR, GREY, certificate, image_errors, result
from vae_export.parity.compare import Comparison
from vae_export.pixels import GreyLevels
from vae_export.report import images
from vae_export.report.certificate_charts import STRIP, strip
from vae_export.report.certificate_page import Summary


def test_summary_picks_the_worst_row_and_prefers_failed_ones() -> None:
    grey = replace(result(ratio=0.1).comparison, grey=GreyLevels(9, 2, 4))
    unexplained = result(ratio=0.1, comparison=grey)
    [group] = Summary(certificate((result(ratio=7.0), unexplained, result(ratio=3.0))), GREY).by_output
    assert group.worst == unexplained
    assert (group.failed, group.differing, group.unexplained, group.levels) == (1, 15, 2, 4)


def test_summary_counts_numbers_from_the_shapes_of_the_contract() -> None:
    never_ran = result(comparison=Comparison(fault="cannot run"))
    summary = Summary(certificate((result(), result("encoder", "mean"), never_ran)), GREY)
    assert summary.numbers(summary.certificate.results) == 3 * 144 + 3 * 4
    assert summary.numbers(summary.certificate.results, grey=True) == 3 * 144


def test_strip_keeps_values_beyond_the_tolerance_apart() -> None:
    marks = strip([0.0, 0.5, 0.5, 1.0, 1.001, np.inf])
    assert [(mark.x, mark.beyond) for mark in marks] == [
        (0, False), (STRIP // 2, False), (STRIP, False), (marks[-1].x, True)
    ]  # fmt: skip


def test_amplification_is_round_and_stays_below_white() -> None:
    shown = images.comparison(image_errors(COLOUR, off=3e-4), COLOUR.image_range)
    assert shown.factor is not None
    assert f"{shown.factor:.0e}"[0] in "125"
    assert shown.largest * shown.factor <= 2 < shown.largest * shown.factor * 2.5
    assert images.comparison(image_errors(COLOUR, off=0.0), COLOUR.image_range).factor is None


def test_large_heat_map_shrinks_without_losing_its_worst_pixel() -> None:
    error = np.zeros((3, 600, 900))
    error[2, 599, 441] = 0.25
    heat = images.heat_map(error, (0.0, 1.0))
    assert (heat.largest, heat.channel, heat.row, heat.column) == (0.25, 2, 599, 441)
    assert max(heat.picture.width, heat.picture.height) <= 256
    assert heat.picture.uri != images.heat_map(np.zeros((3, 600, 900)), (0.0, 1.0)).picture.uri


def test_nan_pixels_do_not_look_equal() -> None:
    whole = image_errors()
    broken = replace(whole, decoded=np.full_like(whole.decoded, np.nan))
    shown = images.comparison(broken, GREY.image_range)
    assert (shown.largest, shown.factor) == (1.0, 1.0)
