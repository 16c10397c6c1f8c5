"""The certificate as a page: it says what the certificate says, needs nothing else, and lets nothing in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from vae_export import export
from vae_export.cli.verify import verify
from vae_export.contract import Contract, Part
from vae_export.errors import UsageError
from vae_export.files import write_atomic
from vae_export.findings import Finding
from vae_export.formats.base import Setting
from vae_export.graphs import Source
from vae_export.grey import GreyLevels
from vae_export.manifest import FileEntry, Manifest, read_manifest
from vae_export.parity.certificate import Certificate, Determinism
from vae_export.parity.divergence import Divergence
from vae_export.parity.evidence import Evidence, EvidenceBuilder
from vae_export.parity.measure import Measure, Scale, Tolerance
from vae_export.parity.probes import make_probes
from vae_export.parity.row import Row
from vae_export.report import certificate_page, pictures
from vae_export.report.charts import STRIP, strip
from vae_export.report.summary import Summary
from vae_export.report.words import PROBES

GREY = Contract((1, 12, 12), (4,))
COLOUR = Contract((3, 16, 16), (4, 2, 2), (-1.0, 1.0))
ONNX, TORCH = "onnx/CPUExecutionProvider", "torchscript/cpu"
UNIT = 1e-7
HOSTILE = "<script>alert('x')</script>\"'&{{ 7 * 7 }}"


def row(
    part: str = "decoder", output: str = "image", *, ratio: float = 1.5, target: str = ONNX, **changes: object
) -> Row:
    error = ratio * UNIT
    grey = GreyLevels(3, 0, 1) if output == "image" else None
    measure = Measure(error / 2, error / 9, (0, 0, 1, 2), error, ratio, grey, mean_error=error / 8)
    whole = Row(part, target, Setting(1, "all"), "prior", 3, output, measure, Scale(UNIT, UNIT / 2, 0.5))
    return replace(whole, **changes)  # type: ignore[arg-type]


def evidence(contract: Contract = GREY, *, off: float = 1e-7) -> Evidence:
    rng = np.random.default_rng(0)
    low, high = contract.image_range
    exact = rng.uniform(low, high, (20, *contract.image_shape))
    eager = exact.astype(np.float32)
    decoded = (eager + off * rng.uniform(-1, 1, exact.shape)).astype(np.float32) if off else eager
    builder = EvidenceBuilder()
    builder.add(decoded, eager, exact)
    builder.show(eager, eager, decoded)
    built = builder.build()
    assert built is not None
    return built


def manifest(contract: Contract = GREY, names: tuple[str, ...] = ("encoder.onnx", "decoder.onnx")) -> Manifest:
    parts: tuple[Part, ...] = ("encoder", "decoder")
    files = tuple(FileEntry.of(name, part, "onnx", name.encode()) for name, part in zip(names, parts, strict=True))
    return Manifest(contract, files, 20, {"torch": "2.99.0"}, {"data": {"name": "somebody's", "seed": 7}})


def certificate(rows: tuple[Row, ...] | None = None, **changes: object) -> Certificate:
    if rows is None:
        rows = (
            row("encoder", "mean", ratio=0.25),
            row(),
            row(ratio=2.625, probe="six-sigma"),
            row(target=TORCH, ratio=1.0),
            row("metric", "negative_elbo", probe="data", batch=64),
        )
    whole = Certificate(
        files={entry.name: entry.sha256 for entry in manifest().files},
        planned=len(rows),
        rows=rows,
        determinism=(Determinism("decoder", ONNX, True, False),),
        environment={"versions": {"torch": "2.99.0", "onnxruntime": "1.99.0"}, "gpu": None, "images": "real"},
        evidence={ONNX: evidence(), TORCH: evidence(off=0.0)},
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


class _Reader(HTMLParser):
    """Elements with their attributes, the text that is read, and which elements were left open."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.pieces: list[str] = []
        self.feed(page)
        self.text = " ".join("".join(self.pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.pieces.append(data)


def read(whole: Certificate, described: Manifest | None = None) -> _Reader:
    return _Reader(certificate_page(whole, described or manifest()))


def test_it_says_verdict_figures_hashes_and_versions() -> None:
    page = read(certificate())
    assert page.text.startswith("Pass")
    for said in ("5 of 5 planned", "2.62×", "8× is allowed", "six-sigma", "nats", ONNX, TORCH, "onnxruntime 1.99.0"):
        assert said in page.text
    for entry in manifest().files:
        assert entry.sha256 in page.text
    assert "other bits" in page.text
    assert PROBES["six-sigma"] in page.text


def test_it_is_well_formed_with_an_alternative_for_every_picture_and_a_scope_for_every_heading() -> None:
    page = read(certificate())
    assert page.open == []
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(images) == 2 + 2 + 2 * 2  # two heat maps, two common rows, two rows for each target
    assert all(attributes["alt"] for attributes in images)
    assert all(attributes.get("aria-label") for tag, attributes in page.elements if tag == "svg")
    assert all(attributes.get("scope") for tag, attributes in page.elements if tag == "th")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_it_loads_nothing_and_runs_nothing() -> None:
    page = certificate_page(certificate(), manifest())
    for tag, attributes in _Reader(page).elements:
        assert tag not in ("script", "iframe", "object", "embed", "form", "base")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "poster", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#"))
    assert not re.search(r"https?://|url\(|@import|file:/", page)
    assert "default-src 'none'" in page


@pytest.mark.parametrize("contract", [GREY, COLOUR], ids=["grey", "colour"])
def test_equal_certificates_give_equal_bytes(contract: Contract) -> None:
    pages = {certificate_page(certificate(evidence={ONNX: evidence(contract)}), manifest(contract)) for _ in range(2)}
    assert len(pages) == 1


def test_a_manifest_gives_the_same_page_after_it_was_written_and_read(tmp_path: Path) -> None:
    described = replace(
        manifest(), provenance={"z": {"b": 1, "a": 0.1}, "c": "d"}, versions={"torch": "1", "onnx": "2"}
    )
    write_atomic(tmp_path / "manifest.json", described.text)
    assert certificate_page(certificate(), described) == certificate_page(certificate(), read_manifest(tmp_path))


def test_hostile_names_are_text() -> None:
    hostile = certificate(
        (
            row(target=f"onnx/{HOSTILE}", probe=HOSTILE, output=HOSTILE, part=HOSTILE),
            row(measure=Measure(fault=HOSTILE)),
        ),
        files={HOSTILE: "0" * 64},
        findings=(Finding(HOSTILE, "error", HOSTILE, HOSTILE),),
        determinism=(Determinism(HOSTILE, HOSTILE, True, True),),
        divergences={HOSTILE: Divergence(HOSTILE, HOSTILE, (0,), 1.0, 2.0, 1.0, 1e-6)},
        unusable={HOSTILE: HOSTILE},
        environment={HOSTILE: HOSTILE},
        evidence={HOSTILE: evidence()},
    )
    described = replace(
        manifest(names=(HOSTILE, "decoder.onnx")), provenance={HOSTILE: HOSTILE}, versions={"x": HOSTILE}
    )
    page = read(hostile, described)
    assert "script" not in [tag for tag, _ in page.elements]
    assert page.open == []
    assert page.text.count(HOSTILE) > 15
    assert not {name for _, attributes in page.elements for name in attributes} & {"alert", "'x'"}


def test_a_certificate_without_evidence_has_no_pictures_and_says_so() -> None:
    page = read(certificate((row("encoder", "mean"),), evidence={}))
    assert "img" not in [tag for tag, _ in page.elements]
    assert "No pictures" in page.text
    assert page.text.startswith("Pass")


def test_what_failed_comes_first_with_where_the_file_leaves_the_path() -> None:
    divergence = Divergence("node_linear (Gemm)", "linear", (0, 3), -0.0886168, -0.0786167, 0.01, 3.5e-6)
    failed = row(ratio=12345.0)
    page = read(certificate((row(ratio=0.5), failed), divergences={"decoder.onnx": divergence}))
    assert page.text.startswith("Fail")
    assert "1 comparison of 2 failed" in page.text
    for said in ("node_linear (Gemm)", "-0.0886168", "-0.0786167", failed.reason):
        assert said in page.text
    assert page.text.index("What failed") < page.text.index(failed.reason) < page.text.index("What was compared")


def test_rows_without_figures_are_shown_as_failures() -> None:
    broken = row(measure=Measure(fault="not finite: tensor 'image' at (0, 1)"), ratio=1)
    page = read(certificate((broken, row("metric", "iwae_nll", measure=Measure(fault="not finite")))))
    assert page.text.startswith("Fail")
    assert "not finite: tensor 'image' at (0, 1)" in page.text


@pytest.mark.parametrize("scale", [Scale(np.inf, UNIT, 1.0), Scale(np.nan, UNIT, np.inf), Scale(UNIT, UNIT, 0.0)])
def test_scales_that_are_no_numbers_break_nothing(scale: Scale) -> None:
    with np.errstate(all="ignore"):
        assert "Fail" in read(certificate((row(ratio=1e9, scale=scale),))).text[:6]


def test_a_band_of_zero_passes_what_is_exact() -> None:
    exact = row(ratio=0.0, scale=Scale(UNIT, UNIT, 1.0, Tolerance()))
    page = read(certificate((exact,)))
    assert page.text.startswith("Pass")
    assert "the user’s own tolerance" in page.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": (), "planned": 0, "evidence": {}}, "Nothing was compared"),
        ({"planned": 9}, "4 comparisons of 9 planned were not made"),
        ({"planned": 1}, "4 comparisons more than planned"),
        ({"findings": (Finding("random-operator", "error", "decoder.onnx", "RandomNormal"),)}, "showed 1 error"),
    ],
    ids=["empty", "incomplete", "too many", "finding"],
)
def test_it_says_why_there_is_no_pass_although_no_figure_failed(changes: dict[str, Any], said: str) -> None:
    page = read(certificate(**changes))
    assert page.text.startswith("Fail")
    assert said in page.text


def test_targets_and_files_that_did_not_run_are_named() -> None:
    whole = certificate(unusable={"onnx/CUDAExecutionProvider": "provider is not there"})
    page = read(replace(whole, files={"encoder.onnx": "f" * 64, "other.onnx": "0" * 64}))
    for said in (
        "provider is not there",
        "not verified",
        "another file was run",
        "not run here",
        "not in the manifest",
    ):
        assert said in page.text


def test_what_was_left_out_is_named_where_a_reader_looks() -> None:
    assert "Not everything was verified" not in read(certificate()).text
    gaps = {"not_verified": ("decoder.pt2",), "nats": "no target ran both", "unusable": {"onnx/toaster": "not there"}}
    page = read(certificate(**gaps))
    assert page.text.startswith("Pass")
    assert "Not everything was verified" in page.text[:400]
    for said in ("decoder.pt2: no target of this verification runs it", "nats: no target ran both", "not there"):
        assert said in page.text


def test_the_users_own_band_is_shown_with_its_figures() -> None:
    own = Tolerance(1e-3, 0.02)
    page = read(certificate((row(scale=Scale(UNIT, UNIT, 1.0, own)),), tolerance=own))
    assert page.text.count("the user’s own tolerance, atol 0.001 and rtol 0.02") == 3
    assert "atol" not in read(certificate()).text


def test_every_probe_is_explained() -> None:
    source = Source(GREY, None, nn.Identity())
    assert [probe.name for probe in make_probes(source, {}, 2)] == list(PROBES)


def test_the_summary_names_the_worst_row_and_prefers_a_failed_one() -> None:
    grey = replace(row(ratio=0.1).measure, grey=GreyLevels(9, 2, 4))
    unexplained = row(ratio=0.1, measure=grey)
    [group] = Summary(certificate((row(ratio=7.0), unexplained, row(ratio=3.0))), GREY).results
    assert group.worst == unexplained
    assert (group.failed, group.differing, group.unexplained, group.levels) == (1, 15, 2, 4)


def test_numbers_are_counted_by_the_contract() -> None:
    never_ran = row(measure=Measure(fault="cannot run"))
    summary = Summary(certificate((row(), row("encoder", "mean"), never_ran)), GREY)
    assert summary.numbers(summary.certificate.rows) == 3 * 144 + 3 * 4
    assert summary.numbers(summary.certificate.rows, grey=True) == 3 * 144


def test_a_strip_keeps_what_lies_beyond_the_band_apart() -> None:
    marks = strip([0.0, 0.5, 0.5, 1.0, 1.001, np.inf])
    assert [(mark.x, mark.beyond) for mark in marks] == [
        (0, False), (STRIP // 2, False), (STRIP, False), (marks[-1].x, True)
    ]  # fmt: skip


def test_the_amplification_is_round_and_stays_below_white() -> None:
    whole = evidence(COLOUR, off=3e-4)
    shown = pictures.comparison(whole, COLOUR.image_range)
    assert shown.factor is not None
    assert f"{shown.factor:.0e}"[0] in "125"
    assert shown.largest * shown.factor <= 2 < shown.largest * shown.factor * 2.5
    assert pictures.comparison(evidence(COLOUR, off=0.0), COLOUR.image_range).factor is None


def test_a_large_picture_is_made_small_without_losing_its_worst_pixel() -> None:
    error = np.zeros((3, 600, 900))
    error[2, 599, 441] = 0.25
    heat = pictures.heat_map(error, (0.0, 1.0))
    assert (heat.largest, heat.channel, heat.row, heat.column) == (0.25, 2, 599, 441)
    assert max(heat.picture.width, heat.picture.height) <= 256
    assert heat.picture.uri != pictures.heat_map(np.zeros((3, 600, 900)), (0.0, 1.0)).picture.uri


def test_a_pixel_that_is_no_number_does_not_look_equal() -> None:
    whole = evidence()
    broken = replace(whole, decoded=np.full_like(whole.decoded, np.nan))
    shown = pictures.comparison(broken, GREY.image_range)
    assert (shown.largest, shown.factor) == (1.0, 1.0)


class _Decoder(nn.Module):
    """latent (N, 4) → image (N, 1, 12, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 144)

    def forward(self, latent: Tensor) -> Tensor:
        image: Tensor = self.linear(latent).sigmoid().reshape(-1, 1, 12, 12)
        return image


def test_an_export_holds_the_page_of_its_certificate(tmp_path: Path) -> None:
    artifact, whole = export(Source(GREY, None, _Decoder()), tmp_path / "export")
    page = artifact.certificate.with_suffix(".html").read_text("utf-8")
    assert page == certificate_page(whole, artifact.manifest)
    assert str(tmp_path) not in page


def test_verify_overwrites_no_page(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="beside it"):
        verify(out=tmp_path / "report.html")
    (tmp_path / "report.html").touch()
    with pytest.raises(UsageError, match="exists"):
        verify(out=tmp_path / "report.json")


@pytest.fixture
def chromium() -> str:
    found = shutil.which("chromium")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium is not installed; run: apt-get install chromium")
        pytest.skip("chromium is not installed")
    return found


def browse(chromium: str, page: Path, profile: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    quiet = "gpu quic background-networking component-update sync dev-shm-usage"
    flags = ["--headless", "--no-sandbox", "--no-first-run", "--hide-scrollbars", "--window-size=1200,2400"]
    flags += [f"--disable-{name}" for name in quiet.split()]
    command = [chromium, *flags, f"--user-data-dir={profile}", "--enable-logging=stderr", *arguments, page.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result


def console(result: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in result.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
def test_a_real_browser_shows_it_without_a_complaint(chromium: str, tmp_path: Path) -> None:
    from PIL import Image

    page, picture = tmp_path / "certificate.html", tmp_path / "shot.png"
    page.write_text(certificate_page(certificate(), manifest()), "utf-8")
    result = browse(chromium, page, tmp_path / "profile", f"--screenshot={picture}")
    assert console(result) == []
    with Image.open(picture) as shot:
        assert shot.size == (1200, 2400)
        red, green, blue = shot.convert("RGB").getpixel((1100, 60))  # type: ignore[misc]
        assert green > 1.5 * max(red, blue), "the verdict is not green"
        assert len(set(shot.convert("RGB").tobytes()[::7])) > 100, "the page is blank"

    # That silence means something: the same page with a picture from elsewhere is refused, aloud.
    page.write_text(
        page.read_text("utf-8").replace("<main>", '<main><img src="https://example.invalid/x.png">'), "utf-8"
    )
    loud = browse(chromium, page, tmp_path / "other", "--dump-dom")
    assert "Content Security Policy" in "".join(console(loud))
    assert "Pass</h1>" in loud.stdout
