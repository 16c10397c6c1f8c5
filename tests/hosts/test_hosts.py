"""Example hosts, run as their pages say, draw the right pixels from a good bundle and fail with a bad one."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path

import headless
import numpy as np
import pytest
from host import BUNDLE, HOSTS, PICTURE, Host, Report, browse, run
from PIL import Image

from tests.bundles.conformance import Draft, archive, shortened
from tests.commands import run_python
from tests.hosts.conftest import run_with
from vae_export import Model, load
from vae_export.bundles import open_bundle
from vae_export.pixels import to_levels

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = [name for name in HOSTS if name != "browser"]
#: Needs both words of Philox's key.
SEED = 2**64 - 1


@pytest.fixture(scope="module")
def model() -> Model:
    return load(ROOT / BUNDLE)


def check_report(report: Report, host: Host) -> None:
    """Assert that the host passed and judged every output by the tolerance in the bundle."""
    assert report.passed, f"{report.text}\n{report.errors}"
    assert report.noise == (14, 14)
    golden = open_bundle(ROOT / BUNDLE).manifest.golden
    parts = [part for part in golden if part.part in host.parts]
    bands = {(part.part, array.tensor): array.tolerance for part in parts for array in part.outputs}
    assert report.outputs.keys() == bands.keys()
    for output, (error, band) in report.outputs.items():
        assert 0 < error <= band == pytest.approx(bands[output], rel=0.01)
    assert report.pixels[1] == 0
    assert report.first_image is not None
    assert report.first_image < 60


def check_picture(grid: np.ndarray, model: Model) -> None:
    """Assert that the 16 images of the seed are drawn 4 in a row; values between two levels may round either way."""
    images = model.sample(16, SEED)[:, 0].reshape(4, 4, 28, 28).transpose(0, 2, 1, 3).reshape(112, 112)
    lowest, highest = (to_levels(images + step, 0, 1) for step in (-1e-5, 1e-5))
    assert grid.shape == (112, 112)
    assert ((grid >= lowest) & (grid <= highest)).all()
    assert grid.max() > 200


@pytest.mark.parametrize("name", PROGRAMS)
def test_host_passes_and_draws_the_same_images(
    name: str, host: Callable[[str], Host], folder: Path, model: Model, tmp_path: Path
) -> None:
    found = host(name)
    picture = tmp_path / PICTURE
    check_report(run(found, folder, seed=SEED, picture=picture), found)
    with Image.open(picture) as image:
        check_picture(np.asarray(image), model)


@pytest.mark.parametrize("name", PROGRAMS)
def test_altered_file_never_reaches_the_engine(
    name: str, host: Callable[[str], Host], folder: Path, altered: Path, tmp_path: Path
) -> None:
    report = run(host(name), folder, altered, picture=tmp_path / PICTURE)
    assert report.code == 1
    assert report.lines == []
    assert re.search(
        r"altered: decoder\.(onnx|torchscript\.pt); expected SHA-256 [0-9a-f]{64}, got [0-9a-f]{64}$", report.errors
    )
    assert len(report.errors.splitlines()) == 1
    assert not (tmp_path / PICTURE).exists()


@pytest.mark.parametrize("name", PROGRAMS)
def test_texts_of_a_bundle_reach_no_terminal_as_they_are(
    name: str, host: Callable[[str], Host], folder: Path, tmp_path: Path
) -> None:
    """Escape sequences, a mark that turns the text, and a line separator."""
    found, text, good = host(name), "\x1b[2J\u202ex\u2028", shortened(ROOT / BUNDLE)
    changes: list[Callable[[Draft], object]] = [
        lambda draft: draft.manifest.update(format=text),
        lambda draft: draft.manifest["versions"].update({text: text}),
        lambda draft: draft.manifest["contract"].update(prior=text),
        lambda draft: draft.manifest["files"][0].update(part=text),
        lambda draft: draft.manifest["golden"][0]["inputs"][0].update(file=text),
        lambda draft: draft.certificate.update(verdict=text),
        lambda draft: draft.certificate.update(format=text),
        lambda draft: draft.certificate["files"].update({"decoder.onnx": text}),
    ]
    listed, *rest = good.entries()
    bundles = [archive([(listed[0], listed[1] + f"{'0' * 64}  {text}\n".encode()), *rest])]
    for change in changes:
        draft = good.copy()
        change(draft)
        bundles.append(draft.data())
    for number, data in enumerate(bundles):
        (tmp_path / f"{number}.zip").write_bytes(data)
        done = run_with(found, folder, tmp_path / f"{number}.zip")
        assert (done.returncode, done.stdout) == (1, ""), number
        assert done.stderr.startswith("error: "), number
        assert done.stderr.endswith("\n"), number
        assert done.stderr[:-1].isprintable(), ascii(done.stderr)


@pytest.mark.parametrize("name", PROGRAMS)
def test_host_refuses_bad_arguments_in_one_line(
    name: str, host: Callable[[str], Host], folder: Path, tmp_path: Path
) -> None:
    found = host(name)
    for report, said in (
        (run(found, folder, Path("nothing.zip"), picture=tmp_path / PICTURE), "error: .*nothing.zip"),
        (run(found, folder, seed=-1, picture=tmp_path / PICTURE), r"error: bad seed: -1; expected 0 to 2\^64 - 1"),
        (run(found, folder, seed=2**64, picture=tmp_path / PICTURE), f"error: bad seed: {2**64}"),
        (run(found, folder, picture=tmp_path / "nowhere" / PICTURE), "error: .*nowhere"),
    ):
        assert report.code == 1
        assert re.match(said, report.errors), report.errors
        assert len(report.errors.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_wrong_pixels_fail_the_self_test(
    name: str, host: Callable[[str], Host], folder: Path, wrong: Path, tmp_path: Path
) -> None:
    report = run(host(name), folder, wrong, picture=tmp_path / PICTURE)
    assert (report.code, report.lines[-1]) == (1, "FAIL"), report.errors
    assert report.pixels[1] == 1
    error, _ = report.outputs["decoder", "image"]
    assert error == pytest.approx(2 / 255, rel=0.01)


@pytest.mark.parametrize("backend", ["wasm", "webgpu"])
def test_browser_passes_and_draws_the_same_images(
    backend: str, host: Callable[[str], Host], folder: Path, model: Model
) -> None:
    found = host("browser")
    # A page around the example waits for its verdict and writes its canvas to the console.
    (folder / "around.html").write_text("""<!doctype html><iframe></iframe><script>
        const frame = document.querySelector("iframe");
        frame.src = "examples/browser/" + location.search;
        const waiting = setInterval(() => {
            if (!/^(pass|FAIL)$/m.test(frame.contentDocument?.querySelector("pre")?.textContent)) return;
            clearInterval(waiting);
            console.log(frame.contentDocument.querySelector("canvas").toDataURL());
            console.log("seen");
        }, 20);
    </script>""")
    with headless.serving(folder) as served:
        report = browse(served, seed=SEED, backend=backend, page="around.html", last=("seen",))
    assert report.lines.pop() == "seen"
    picture = base64.b64decode(report.lines.pop().removeprefix("data:image/png;base64,"))
    check_report(report, found)
    assert f", on {backend}" in report.lines[0]
    assert report.errors == ""
    with Image.open(io.BytesIO(picture)) as image:
        check_picture(np.asarray(image.convert("L")), model)


def test_browser_refuses_an_altered_file(host: Callable[[str], Host], folder: Path, altered: Path) -> None:
    host("browser")
    with headless.serving(folder) as served:
        report = browse(served, altered)
        assert not any("wasm" in path for path in served.sizes), "the engine was loaded"
    assert len(report.lines) == 2
    assert report.lines[0].startswith("error: file was altered: decoder.onnx; expected SHA-256")
    assert report.lines[1] == "FAIL"


def test_browser_fails_on_wrong_pixels(host: Callable[[str], Host], folder: Path, wrong: Path) -> None:
    host("browser")
    with headless.serving(folder) as served:
        report = browse(served, wrong)
    assert report.lines[-1] == "FAIL"
    assert report.pixels == (1, 1)


def test_browser_without_webgpu_fails_rather_than_fall_back(host: Callable[[str], Host], folder: Path) -> None:
    host("browser")
    with headless.serving(folder) as served:
        lines, _ = headless.console(
            f"{served.url}/examples/browser/?backend=webgpu", "--disable-gpu", last=("pass", "FAIL")
        )
    assert lines[-2:] == ["error: this browser has no WebGPU adapter", "FAIL"]


def test_short_python_example_passes_and_fails_like_a_host(folder: Path, wrong: Path) -> None:
    short = (ROOT / "examples/python/short.py").read_text("utf-8")
    done = run_python(short, BUNDLE, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(16, 1, 28, 28) float32\nencoder mean: worst error ")
    assert done.stdout.endswith(", 0 unexplained\nself-test passed\n")
    page = (ROOT / "examples/python/README.md").read_text("utf-8")
    (shown,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert shown in short
    done = run_python(short, wrong, cwd=folder)
    assert done.returncode != 0
    assert "self-test FAILED" in done.stdout
    assert done.stderr.rstrip().endswith("check that the engine computes in float32")


def test_every_host_has_a_table_row_and_a_page() -> None:
    table = (ROOT / "examples/README.md").read_text("utf-8")
    folders = {path.parent.name for path in (ROOT / "examples").glob("*/README.md")}
    folders.remove("blog-post")  # it makes a bundle
    assert folders == set(HOSTS) == set(re.findall(r"^\| \[([\w-]+)\]\(\1\)", table, re.M))
    for name, host in HOSTS.items():
        assert len(host.lines) <= 5, name
        assert name == "browser" or f"{BUNDLE} {PICTURE}." in host.lines[-1]


def test_cpp_hosts_have_fewer_than_thirty_lines() -> None:
    programs = sorted((ROOT / "examples").glob("cpp-*/main.cpp"))
    assert len(programs) == 4
    assert [path for path in programs if len(path.read_text("utf-8").splitlines()) >= 30] == []


def test_python_host_does_not_import_the_library() -> None:
    for name in ("bundle.py", "main.py"):
        assert not re.search(
            r"^\s*(import|from) vae_export", (ROOT / "examples/python" / name).read_text("utf-8"), re.M
        )
