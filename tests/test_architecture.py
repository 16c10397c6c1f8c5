"""The import contract: which package may import which, and what the runtime and the command line never load.

Every import counts, those inside functions too. The one exception is the façade `vae_export/__init__.py`, whose names
are imported when they are first used.
"""

from __future__ import annotations

import ast
import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: From the ground up: a module imports from its own package and from the layers below it, never from beside or above.
LAYERS = (
    ("vae_export._version", "vae_export.errors", "vae_export.precision"),
    ("vae_export.likelihood", "vae_export.runs", "vae_export.session_options", "vae_export.system"),
    ("vae_export.tensors", "vae_export.io", "vae_export.frechet"),
    ("vae_export.contract",),
    ("vae_export.pixels", "vae_export.rng", "vae_export.models"),
    ("vae_export.artifact", "vae_export.sources"),
    ("vae_export.bundles", "vae_export.capture"),
    ("vae_export.runtime",),
    ("vae_export.formats", "vae_export.explorer"),
    ("vae_export.sandbox", "vae_export.pipeline"),
    ("vae_export.parity", "vae_export.serving"),
    ("vae_export.bench",),
    ("vae_export.report", "vae_export.tune"),
    ("vae_export.exporter",),
    ("vae_export.cli",),
    ("train",),
    ("cli",),
)
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}
FACADE = "vae_export"


def modules() -> dict[str, Path]:
    files = [*ROOT.glob("vae_export/**/*.py"), *ROOT.glob("train/**/*.py"), ROOT / "cli.py"]
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}
    return {name.removesuffix(".__init__"): file for name, file in names.items()}


MODULES = modules()


@functools.cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


def imports(file: Path) -> Iterator[str]:
    """The modules of this project that a file imports anywhere in it."""
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def package(module: str) -> str:
    """`vae_export.parity.elbo` → `vae_export.parity`; all of `train` is one."""
    first, *rest = module.split(".")
    return first if first != "vae_export" or not rest else f"{first}.{rest[0]}"


ARROWS = [(name, target) for name, file in MODULES.items() if name != FACADE for target in imports(file)]


def test_every_package_has_a_layer() -> None:
    assert {package(name) for name in MODULES} - {FACADE} == LEVEL.keys()


def test_imports_point_downwards() -> None:
    upward = [
        f"{name} imports {target}"
        for name, target in ARROWS
        if package(name) != package(target) and not LEVEL[package(target)] < LEVEL[package(name)]
    ]
    assert upward == []


def test_no_module_imports_the_facade() -> None:
    assert [name for name, target in ARROWS if target == FACADE] == []


def test_no_two_modules_import_each_other() -> None:
    below: dict[str, set[str]] = {name: set() for name in MODULES}
    for name, target in ARROWS:
        below[name] |= {target} - {name}  # a module that runs as `__main__` imports itself, for its classes' names
    while leaves := {name for name, targets in below.items() if not targets & below.keys()}:
        below = {name: targets for name, targets in below.items() if name not in leaves}
    assert sorted(below) == []  # what is left imports itself, by way of the others


def test_no_two_public_classes_share_a_name() -> None:
    nodes = [node for file in MODULES.values() for node in ast.walk(parsed(file))]
    names = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef) and not node.name.startswith("_"))
    assert [name for name, count in names.items() if count > 1] == []


def test_at_most_a_dozen_modules_lie_loose_on_top() -> None:
    assert len([file for file in ROOT.glob("vae_export/*.py") if file.name != "__init__.py"]) <= 12


@pytest.mark.parametrize(
    "name", ["errors", "contract", "precision", "runs", "likelihood", "session_options", "system.extras"]
)
def test_command_line_reads_its_choices_without_numpy(name: str) -> None:
    text = (ROOT / f"vae_export/{name.replace('.', '/')}.py").read_text("utf-8")
    top = [node for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not [node for node in top if "numpy" in ast.unparse(node) or "torch" in ast.unparse(node)]
