"""The documentation is executed, or compared with what it describes: it cannot rot."""

from __future__ import annotations

import importlib.util
import re
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.conftest import made_once

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "artifacts/README.md")),
    *(
        page
        for folder in ("docs", "examples", "examples/*", "artifacts/reference")
        for page in ROOT.glob(f"{folder}/*.md")
    ),
]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path, program: str) -> list[list[str]]:
    """The command lines of a page's bash blocks that start with `program`, without their comments."""
    lines = [line for block in blocks(page, "bash") for line in block.splitlines() if line.startswith(program)]
    return [shlex.split(line, comments=True) for line in lines]


def prepare(folder: Path) -> None:
    """What the README's commands find where they are typed: a small MNIST in the real one's place and form."""
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


@pytest.fixture(scope="session")
def after_commands(shared: Path) -> Path:
    """The same folder after the README's commands, in their order, each as it stands there."""
    return made_once(shared / "newcomer", type_commands)


def type_commands(newcomer: Path) -> None:
    prepare(newcomer)
    typed = commands(ROOT / "README.md", "python cli.py")
    assert [line[2] for line in typed] == [
        *("train", "export", "verify", "evaluate", "runs", "bundle", "inspect"),
        *("sample", "encode", "decode", "reconstruct", "decode", "export", "export", "tune"),
    ]
    for _, script, *arguments in typed:
        command = [sys.executable, str(ROOT / script), *arguments]
        done = subprocess.run(command, cwd=newcomer, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        assert done.stdout.strip()


def test_readme_commands_work_in_their_order(after_commands: Path) -> None:
    run = after_commands / "artifacts" / "mnist-mlp"
    named = {"encoder.onnx", "decoder.onnx", "autoencoder.onnx", "certificate.json", "manifest.json"}
    assert named <= {path.name for path in (run / "export").iterdir()}
    assert {path.name for path in (run / "pictures").iterdir()} >= {"reconstructions.png", "manifold.png"}


def test_readme_python_works_after_its_commands(after_commands: Path) -> None:
    code = blocks(ROOT / "README.md", "python")
    assert len(code) == 2
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
    assert "True" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for _, *arguments in commands(page, "make"):
        assert {word for word in arguments if "=" not in word} <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        if not link.startswith("https://"):
            assert (page.parent / link).exists(), link


def test_page_of_commands_is_what_the_commands_say() -> None:
    specification = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert specification is not None
    assert specification.loader is not None
    generate = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(generate)
    assert generate.PAGE.read_text("utf-8") == generate.page(), "run: python docs/generate.py"


def test_readme_names_every_format_and_family() -> None:
    from vae_export.formats import FORMATS
    from vae_export.models import FAMILIES

    text = (ROOT / "README.md").read_text("utf-8")
    for format in FORMATS.values():
        assert f"| `{format.name}` | `<part>{format.suffix}` | {format.summary} |" in text
    for family in FAMILIES:
        assert f"| `{family}` |" in text


def test_readme_names_every_probe() -> None:
    import torch

    from vae_export.capture import capture
    from vae_export.models import VAE, VAEConfig
    from vae_export.parity.probes import make_probes
    from vae_export.sources import Source

    torch.manual_seed(0)
    model = VAE(VAEConfig(hidden_size=8))
    source = Source(model.config.contract, model.encoder, model.decoder)
    probes = make_probes(source, {part: capture(source, part) for part in source.parts}, 2)
    text = (ROOT / "README.md").read_text("utf-8")
    table = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert all(any(f"`{probe.name}`" in names for names in table) for probe in probes)


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


def test_architecture_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for package in ("vae_export", "train"):
        for path in (ROOT / package).iterdir():
            if path.suffix == ".py" and path.name not in ("__init__.py",):
                assert f"`{path.name}`" in text, path
            elif path.is_dir() and path.name != "__pycache__":
                assert f"`{path.name}/`" in text, path


def test_exit_codes_in_the_docs_are_those_of_the_errors() -> None:
    from vae_export import errors

    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    raised = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")}
    assert documented == raised | {0}
