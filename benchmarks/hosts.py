"""Run every example host that can run here, and tabulate its errors, its time to the first image, and its size.

python benchmarks/hosts.py [--write]

`--write` puts the table into examples/README.md. The row of a host that cannot run here says what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from headless import serving
from host import BUNDLE, EXAMPLES, HOSTS, ROOT, Host, Report, browse, build, run, workspace
from runtime_install import installed

RUNS = 12
PAGE = EXAMPLES / "README.md"
HEADER = (
    "host",
    "engine",
    "run here",
    "worst error",
    "share of tolerance",
    "pixels that differ",
    "first image",
    "ship",
)
#: Libraries of every Linux machine, which an application does not ship.
_SYSTEM = re.compile(r"/(ld-linux[^/]*|lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s|z))\.so[^/]*$")
_OPENCV_VERSION = Path("/usr/include/opencv4/opencv2/core/version.hpp")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into examples/README.md")
    options = parser.parse_args()
    rows = [HEADER, tuple("---" for _ in HEADER)]
    folder = ROOT / "build" / "hosts"
    folder.mkdir(parents=True, exist_ok=True)
    with workspace(folder):
        for host in HOSTS.values():
            measured = _measure(host, folder)
            rows += measured
            print(*measured, sep="\n", flush=True)
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    print(f"\n{table}")
    if options.write:
        text = PAGE.read_text("utf-8")
        PAGE.write_text(
            re.sub(r"(<!-- table -->\n).*(?=<!-- end -->)", lambda m: m[1] + table, text, flags=re.S), "utf-8"
        )


def _measure(host: Host, folder: Path) -> list[tuple[str, ...]]:
    """Return the rows of a host; the browser has two."""
    link = f"[{host.name}]({host.name})"
    if host.missing:
        return [(link, host.engine, f"no: {', '.join(host.missing)} is missing", *("—" for _ in HEADER[3:]))]
    if host.name == "browser":
        return [_browser(link, backend) for backend in ("wasm", "webgpu")]
    build(host, folder)
    reports = [run(host, folder) for _ in range(RUNS)]
    return [_row(link, host, _engine(host), reports, _shipped(host, folder))]


def _browser(link: str, backend: str) -> tuple[str, ...]:
    host, size = HOSTS["browser"], 0
    reports = []
    for _ in range(RUNS):
        with serving(ROOT) as served:
            reports.append(browse(served, backend=backend))
            size = sum(size for path, size in served.sizes.items() if not path.endswith(BUNDLE.name))
    name = {"wasm": "WebAssembly", "webgpu": "WebGPU, in software"}[backend]
    return _row(link, host, f"{_engine(host)}, {name}", reports, size)


def _row(link: str, host: Host, engine: str, reports: list[Report], size: int) -> tuple[str, ...]:
    for report in reports:
        if not report.passed:
            raise SystemExit(f"{host.name} failed\n{report.text}\n{report.errors}")
    worst = max(reports[0].outputs.values())[0]
    ratio = max(error / tolerance for error, tolerance in reports[0].outputs.values())
    differing, unexplained = reports[0].pixels
    seconds = [report.first_image for report in reports if report.first_image is not None]
    return (
        link,
        engine,
        " and ".join(host.parts),
        f"{worst:.1e}",
        f"{ratio:.2f}",
        f"{differing}, {unexplained} unexplained",
        f"{min(seconds):.2f} s",
        f"{size / 1e6:.0f} MB",
    )


def _engine(host: Host) -> str:
    """Return the engine with its version."""
    package = {"node": "onnxruntime-node", "browser": "onnxruntime-web"}.get(host.name)
    if package is not None:
        manifest = EXAMPLES / host.name / "node_modules" / package / "package.json"
        return f"{host.engine} {json.loads(manifest.read_text('utf-8'))['version']}"
    if host.name == "cpp-opencv":
        numbers = re.findall(r"#define CV_VERSION_(?:MAJOR|MINOR|REVISION)\s+(\d+)", _OPENCV_VERSION.read_text("utf-8"))
        return f"{host.engine} {'.'.join(numbers)}"
    if host.name == "cpp-onnxruntime":
        library = Path(os.environ["ORT_ROOT"], "lib", "libonnxruntime.so").resolve()
        return f"{host.engine} {library.name.partition('.so.')[2]}".rstrip()
    module = {"python": "onnxruntime", "cpp-libtorch": "torch", "cpp-openvino": "openvino"}.get(host.name)
    return host.engine if module is None else f"{host.engine} {version(module)}"


def _shipped(host: Host, folder: Path) -> int:
    """Return the bytes that an application ships beside the bundle and the interpreter of its language.

    For Python these are the packages that pip installs, for Node the files that the packages load, and for C++ the
    program and its libraries but those of C and C++.
    """
    if host.name == "python":
        return installed("numpy", "onnxruntime")[1]
    with TemporaryDirectory() as logs:
        run(host, folder, environment={"LD_DEBUG": "files", "LD_DEBUG_OUTPUT": f"{logs}/log"})
        text = "".join(path.read_text("utf-8", "replace") for path in Path(logs).iterdir())
    loaded = {Path(path).resolve() for path in re.findall(r"calling init: (\S+)", text) if not _SYSTEM.search(path)}
    if host.name == "node":
        modules = EXAMPLES / "node" / "node_modules"
        loaded = {path for path in loaded if path.is_relative_to(modules)}
        for package in ("onnxruntime-node/dist", "onnxruntime-common/dist/cjs"):
            loaded |= set((modules / package).rglob("*.js"))
    else:
        loaded.add(folder / host.lines[-1].split()[0])
    return sum(path.stat().st_size for path in loaded)


if __name__ == "__main__":
    main()
