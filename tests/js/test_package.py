"""The JavaScript package is installed into an empty project from its tarball, and its types fit."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.commands import ROOT
from tests.required import skip_or_fail

pytestmark = pytest.mark.slow

JS = ROOT / "js"


@pytest.fixture(scope="module")
def npm() -> str:
    found = shutil.which("npm") or skip_or_fail("npm", "install Node.js 20 or later")
    if not (JS / "node_modules" / "typescript").exists():
        skip_or_fail("typescript", "run: npm ci --prefix js")
    return found


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_types_fit(npm: str) -> None:
    run(npm, "run", "check", cwd=JS)


def test_tarball_works_in_an_empty_project(npm: str, tmp_path: Path) -> None:
    """Offline: the package has no dependencies, and the engine is linked from the example."""
    engines = ROOT / "examples" / "node" / "node_modules"
    if not (engines / "onnxruntime-node").exists():
        skip_or_fail("onnxruntime-node", "run: npm ci --prefix examples/node")
    run(npm, "pack", "--pack-destination", str(tmp_path), cwd=JS)
    [tarball] = tmp_path.glob("*.tgz")
    project = tmp_path / "project"
    project.mkdir()
    (project / "package.json").write_text('{"type": "module", "private": true}')
    run(npm, "install", "--offline", "--no-audit", "--no-fund", str(tarball), cwd=project)
    installed = project / "node_modules" / "vae-bundle"
    assert not installed.is_symlink()
    assert {path.name for path in installed.iterdir()} == {"LICENSE", "README.md", "package.json", "src", "types"}
    for name in ("onnxruntime-node", "onnxruntime-common"):
        (project / "node_modules" / name).symlink_to(engines / name)
    for name in ("use.ts", "engine.d.ts", "tsconfig.json"):
        shutil.copy(JS / "tests" / name, project / name)
    (project / "node_modules" / "@types").symlink_to(JS / "node_modules" / "@types")
    run("node", str(JS / "node_modules/typescript/bin/tsc"), "--noEmit", "false", cwd=project)
    bundle = ROOT / "artifacts/reference/mnist.zip"
    said = json.loads(run("node", "use.js", str(bundle), "out.png", cwd=project))
    assert said == {
        "refused": True,
        "damaged": True,
        "shape": ["N", 1, 28, 28],
        "latents": 20,
        "mean": [16, 10],
        "logvar": [16, 10],
        "again": [16, 1, 28, 28],
        "between": [5, 1, 28, 28],
        "pixels": [16, 28, 28, 1],
    }
    shutil.copy(bundle, project)
    first = re.search(r"^```js\n(.*?)^```", (installed / "README.md").read_text("utf-8"), re.M | re.S)
    assert first is not None
    (project / "readme.js").write_text(first[1])
    run("node", "readme.js", cwd=project)
    with Image.open(project / "samples.png") as picture:
        assert picture.mode == "L"
    with Image.open(project / "out.png") as picture:
        assert (picture.mode, picture.size) == ("L", (112, 112))
