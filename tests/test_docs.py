"""The documentation is executed, or compared with what it describes: it cannot rot."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.conftest import made_once
from tests.sources import test_diffusers, test_pythae
from tests.test_architecture import LEVEL

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "artifacts/README.md", "js/README.md", "cpp/README.md")),
    *(
        page
        for folder in ("docs", "examples", "examples/*", "artifacts/reference")
        for page in ROOT.glob(f"{folder}/*.md")
    ),
]


#: What README.md names for a first look. Typed after each `train`: all epochs would take half of the time here.
FIRST_LOOK = ["--epochs", "2"]
#: The pages whose commands are typed, in this order and in one folder: each page builds on what the ones before made.
TYPED = [
    ROOT / name
    for name in ("README.md", *(f"docs/{name}.md" for name in ("quality", "formats", "shell", "tune", "ci")))
]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path, *programs: str) -> list[list[str]]:
    """Return the command lines of a page's bash blocks that start with one of `programs`, without their comments."""
    text = "".join(blocks(page, "bash")).replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith(programs)]
    return [shlex.split(line, comments=True) for line in lines]


def make_newcomer(folder: Path) -> None:
    """Fill the folder with what the pages' commands expect: a licence, photographs, models, and a small MNIST."""
    shutil.copy(ROOT / "LICENSE", folder)
    make_models(folder)
    (folder / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 80, 70, 3), dtype=np.uint8)
    for index, image in enumerate(noise):
        Image.fromarray(image).save(folder / "photos" / f"{index}.jpg")
    raw = folder / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    digits = load_digits()
    images = np.kron(digits.images, np.ones((1, 3, 3))) * 255 / 16
    images = np.pad(images, ((0, 0), (2, 2), (2, 2))).astype(np.uint8)
    labels = digits.target.astype(np.uint8)
    for name, part in (("train", slice(0, 1200)), ("t10k", slice(1200, 1400))):
        for kind, array in (("images-idx3", images[part]), ("labels-idx1", labels[part])):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (raw / f"{name}-{kind}-ubyte").write_bytes(header + array.tobytes())


def make_models(folder: Path) -> None:
    """Save small models as diffusers, pythae and a training of one's own leave them."""
    test_diffusers.saved("kl without quantisers", folder / "sd-vae")  # the quickest to export
    test_pythae.saved("VAE", folder / "my-training")
    for name in ("model.py", "train.py"):
        shutil.copy(ROOT / "examples" / "blog-post" / name, folder)
    subprocess.run([sys.executable, "train.py", "1"], cwd=folder, check=True, capture_output=True, timeout=300)


def type_commands(newcomer: Path) -> None:
    """Type the commands of all pages as a newcomer would, with one thread: several workers share this machine."""
    make_newcomer(newcomer)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for page in TYPED:
        for command in commands(page, "python cli.py", "cp "):
            if command[0] == "python":
                command = [sys.executable, str(ROOT / "cli.py"), *command[2:]]
                command += FIRST_LOOK if command[2] == "train" else []
            done = subprocess.run(
                command, cwd=newcomer, env=environment, capture_output=True, text=True, timeout=300, check=False
            )
            assert done.returncode == 0, f"{page.name}: {command}: {done.stderr}"
            assert done.stdout.strip() or command[0] == "cp"


@pytest.fixture(scope="session")
def after_commands(shared: Path) -> Path:
    """The folder in which all commands of the documentation were typed."""
    return made_once(shared / "newcomer", type_commands)


def test_pages_name_every_command_that_can_be_typed() -> None:
    typed = {line[2] for page in TYPED for line in commands(page, "python cli.py")}
    assert typed == {
        *("train", "export", "verify", "bundle", "evaluate", "runs", "inspect", "tune"),
        *("sample", "encode", "decode", "reconstruct"),
    }
    for page in set(PAGES) - set(TYPED):
        assert not commands(page, "python cli.py"), page


def test_commands_work_in_the_order_of_the_pages(after_commands: Path) -> None:
    run = after_commands / "artifacts" / "mnist-mlp"
    named = {"encoder.onnx", "decoder.onnx", "autoencoder.onnx", "certificate.json", "manifest.json"}
    assert named <= {path.name for path in (run / "export").iterdir()}
    assert {path.name for path in (run / "pictures").iterdir()} >= {"reconstructions.png", "manifold.png"}
    assert (after_commands / "artifacts" / "int8" / "decoder.int8.onnx").exists()
    assert (after_commands / "artifacts" / "pixels" / "decoder-uint8-hwc.onnx").exists()


def test_commands_write_to_ignored_folders_only(after_commands: Path) -> None:
    models = {"sd-vae", "my-training", "model.py", "train.py", "vae.pt"}
    names = {path.name for path in after_commands.iterdir()} - {"__pycache__"}
    assert names == {"LICENSE", "photos", "data", "artifacts"} | models


def test_readme_python_works_after_the_commands(after_commands: Path) -> None:
    code = blocks(ROOT / "README.md", "python")
    assert len(code) == 2
    said = []
    for block in code:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", block],
            cwd=after_commands,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert "True" in said[0]


def test_readme_names_the_option_for_a_first_look() -> None:
    assert f"`{' '.join(FIRST_LOOK)}`" in (ROOT / "README.md").read_text("utf-8")


def test_readme_has_no_more_than_180_lines() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 180


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_scripts_and_options_exist(page: Path) -> None:
    """Compare the commands of prose and workflows with the command line, and named scripts with the files."""
    import typer

    from train.cli import evaluate, runs, train
    from vae_export.cli.app import build

    known = typer.main.get_command(build(train, evaluate, runs)).commands  # type: ignore[attr-defined]
    text = page.read_text("utf-8")
    prose = re.findall(r"`(?:torchrun [^`]*?|python )cli\.py (\w[^`]*)`", text)
    for line in [*prose, *re.findall(r"^ +- run: vae-export (.*)$", text, re.MULTILINE)]:
        name, *arguments = shlex.split(line.replace("…", ""))
        options = {
            option for parameter in known[name].params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        assert {argument for argument in arguments if argument.startswith("-")} <= options | {"--help"}, line
    for script in re.findall(r"python (\w+/\w+\.py)", text):
        assert (ROOT / script).exists(), script


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for _, *arguments in commands(page, "make"):
        assert {word for word in arguments if "=" not in word} <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, link


def test_page_of_commands_is_what_the_commands_say() -> None:
    specification = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert specification is not None
    assert specification.loader is not None
    generate = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(generate)
    assert generate.PAGE.read_text("utf-8") == generate.page(), "run: python docs/generate.py"


def test_pages_name_every_format_precision_and_family() -> None:
    from vae_export.formats import FORMATS
    from vae_export.models import FAMILIES
    from vae_export.precision import PRECISIONS

    readme = (ROOT / "README.md").read_text("utf-8")
    page = (ROOT / "docs" / "formats.md").read_text("utf-8")
    for format in FORMATS.values():
        assert f"| `{format.name}` | `<part>{format.suffix}` | {format.summary} |" in readme
        assert f"| `{format.name}` |" in page
    for precision in PRECISIONS:
        assert f"| `{precision}` |" in page
    quality = (ROOT / "docs" / "quality.md").read_text("utf-8")
    for family in FAMILIES:
        assert f"| `{family}` |" in quality


def test_parity_page_names_every_probe() -> None:
    import torch

    from vae_export.capture import capture
    from vae_export.models import VAE, VAEConfig
    from vae_export.parity.probes import make_probes
    from vae_export.sources import Source

    torch.manual_seed(0)
    model = VAE(VAEConfig(hidden_size=8))
    source = Source(model.config.contract, model.encoder, model.decoder)
    probes = make_probes(source, {part: capture(source, part) for part in source.parts}, 2)
    text = (ROOT / "docs" / "parity.md").read_text("utf-8")
    assert all(f"\n| `{probe.name}` |" in text for probe in probes)


def test_parity_page_names_every_finding_and_how_bad_it_is() -> None:
    made = {
        rule: severity
        for path in (ROOT / "vae_export").rglob("*.py")
        for rule, severity in re.findall(r'Finding\(\s*"([\w-]+)",\s*"(\w+)"', path.read_text("utf-8"))
    }
    assert len(made) > 10
    text = (ROOT / "docs" / "parity.md").read_text("utf-8")
    table = dict(re.findall(r"^\| `([\w-]+)` \| (error|warning) \|", text, re.MULTILINE))
    assert made.items() <= table.items()


def test_architecture_page_names_every_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for path in (ROOT / "vae_export").iterdir():
        if (path / "__init__.py").exists():
            assert f"{path.name}/" in text, path


def test_architecture_page_has_the_layers_of_the_import_contract() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    (page,) = re.findall(r"^## Layers\n.*?```text\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    places = {name: index for index, line in enumerate(page.splitlines()) for name in re.findall(r"\w+", line)}
    for name, level in LEVEL.items():
        assert name.split(".")[-1] in places, name
        for other, below in LEVEL.items():
            if below < level:
                assert places[other.split(".")[-1]] >= places[name.split(".")[-1]], f"{other} below {name}"


def test_exit_codes_in_the_docs_are_those_of_the_errors() -> None:
    from vae_export import errors

    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    raised = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")}
    assert documented == raised | {0}
