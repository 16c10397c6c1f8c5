"""Build and run the example hosts as their READMEs say, and read what they report.

The commands are taken from the first bash block of `examples/<name>/README.md`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import headless

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
BUNDLE = Path("artifacts/reference/mnist.zip")
#: The picture that hosts write, and what the last line of each README calls it.
PICTURE, _PICTURE_FILE = "samples", re.compile(r"\bsamples\.png$")
#: Chromium computes WebGPU on the CPU with these, where there is no GPU.
SOFTWARE_GPU = (
    "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan",
    "--enable-unsafe-swiftshader",
)  # fmt: skip
_CPP = ("cmake", "g++", "/usr/include/nlohmann/json.hpp", "/usr/include/sodium.h")


@dataclass(frozen=True)
class Host:
    """An example host.

    Attributes:
        name: its folder in examples/.
        engine: the engine that it computes with.
        needs: programs, Python modules (`module:NAME`), environment variables (`$NAME`), and files, relative to the
            repository or absolute.
        parts: the parts of the bundle that it runs.
    """

    name: str
    engine: str
    needs: tuple[str, ...] = ()
    parts: tuple[str, ...] = ("encoder", "decoder")

    @property
    def missing(self) -> list[str]:
        """The needs that this machine does not meet."""
        return [need for need in self.needs if not there(need)]

    @property
    def lines(self) -> list[str]:
        """The lines of the first bash block of its README."""
        block = re.search(r"^```bash\n(.*?)^```", (EXAMPLES / self.name / "README.md").read_text("utf-8"), re.S | re.M)
        return [] if block is None else [line.split("  #")[0] for line in block[1].splitlines()]

    @property
    def build(self) -> list[str]:
        """The lines that build it: those between the installation of packages and the last."""
        return [line for line in self.lines[:-1] if not re.match(r"(npm|pip|sudo|curl) ", line)]

    def command(self, bundle: Path, picture: Path, seed: int | None) -> str:
        """Return its last line with another bundle and picture, and with a seed."""
        line = _PICTURE_FILE.sub(lambda _: f"'{picture}'", self.lines[-1].replace(str(BUNDLE), f"'{bundle}'"))
        return line if seed is None else f"{line} {seed}"


HOSTS = {
    host.name: host
    for host in (
        Host("python", "ONNX Runtime"),
        Host("node", "ONNX Runtime", ("node", "examples/node/node_modules/onnxruntime-node")),
        Host("browser", "ONNX Runtime Web", ("chromium", "examples/browser/node_modules/onnxruntime-web")),
        Host("cpp-libtorch", "LibTorch", (*_CPP, "module:torch")),
        Host("cpp-openvino", "OpenVINO", (*_CPP, "module:openvino")),
        Host("cpp-opencv", "OpenCV DNN", (*_CPP, "/usr/include/opencv4/opencv2/dnn.hpp"), parts=("decoder",)),
        Host("cpp-onnxruntime", "ONNX Runtime", (*_CPP, "$ORT_ROOT")),
    )
}


@dataclass
class Report:
    """The output of a host.

    Attributes:
        code: its exit code.
        lines: the lines of stdout, or of a page's console.
        errors: stderr, or the warnings and errors of a page.
        first_image: seconds from the start of the process or page to the first decoded image.
    """

    code: int
    lines: list[str] = field(default_factory=list)
    errors: str = ""
    first_image: float | None = None

    @property
    def noise(self) -> tuple[int, int]:
        """The number of golden latents that are equal in all bits, and of all golden latents."""
        same, total = self._search(r"noise: (\d+) of (\d+) golden latents bit for bit")
        return int(same), int(total)

    @property
    def outputs(self) -> dict[tuple[str, str], tuple[float, float]]:
        """The worst error and the tolerance by (part, output)."""
        found = re.findall(r"^([\w-]+) (\w+): worst error (\S+), (\S+) allowed", self.text, re.M)
        return {(part, output): (float(error), float(tolerance)) for part, output, error, tolerance in found}

    @property
    def pixels(self) -> tuple[int, int]:
        """The number of pixels of the decoder that differ, and of those that rounding does not explain."""
        differing, unexplained = self._search(r"^decoder image: .*, (\d+) pixels differ, (\d+) unexplained")
        return int(differing), int(unexplained)

    @property
    def passed(self) -> bool:
        return self.code == 0 and self.lines[-1:] == ["pass"]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def _search(self, pattern: str) -> tuple[str, ...]:
        found = re.search(pattern, self.text, re.M)
        if found is None:
            raise ValueError(f"no line like {pattern!r} in:\n{self.text}\n{self.errors}")
        return found.groups()


@contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """Fill a folder in which the commands of the READMEs work as in the repository, without writing to it."""
    for name in ("examples", "artifacts", "cpp"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    yield folder


def build(host: Host, folder: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run the lines that build a host, in this environment; raises `RuntimeError` with their output."""
    for line in host.build:
        done = subprocess.run(
            ["bash", "-euc", line],
            cwd=folder,
            env=_environment() | dict(environment or {}),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{line}\n{done.stdout}\n{done.stderr}")


def run(
    host: Host,
    folder: Path,
    bundle: Path = BUNDLE,
    *,
    seed: int | None = None,
    picture: Path = Path(PICTURE),
    environment: Mapping[str, str] | None = None,
) -> Report:
    """Run the last line of a host's README, and time its output."""
    report = Report(code=-1)
    command = ["bash", "-euc", f"exec {host.command(bundle, picture, seed)}"]
    start = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command,
            cwd=folder,
            env=_environment() | dict(environment or {}),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        for line in process.stdout or ():
            if line.startswith("first image"):
                report.first_image = time.perf_counter() - start
            report.lines.append(line.rstrip("\n"))
        report.code = process.wait()
        errors.seek(0)
        report.errors = errors.read()
    return report


def browse(
    served: headless.Served,
    bundle: Path = BUNDLE,
    *,
    seed: int = 0,
    backend: str = "wasm",
    page: str = "examples/browser/",
    last: tuple[str, ...] = ("pass", "FAIL"),
) -> Report:
    """Open the browser's page, served from a workspace that holds the bundle, until it writes one of `last`."""
    url = f"{served.url}/{page}?bundle=/{bundle}&seed={seed}&backend={backend}"
    flags = SOFTWARE_GPU if backend == "webgpu" else ()
    lines, complaints = headless.console(url, *flags, last=last)
    report = Report(0 if "pass" in lines else 1, lines, "\n".join(complaints))
    if found := re.search(r"^first image (\S+) s", report.text, re.M):
        report.first_image = float(found[1])
    return report


def _environment() -> dict[str, str]:
    """Return an environment in which `python` is this interpreter."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def there(need: str) -> bool:
    """Whether a program, module, variable or file is there, written as in `Host.needs`."""
    if need.startswith("module:"):
        return importlib.util.find_spec(need.removeprefix("module:")) is not None
    if need.startswith("$"):
        return need[1:] in os.environ
    return (ROOT / need).exists() if "/" in need else shutil.which(need) is not None
