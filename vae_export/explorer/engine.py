"""onnxruntime-web, which runs ONNX files in a browser: an npm package on disk, or a public server if asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vae_export.errors import MachineError, UsageError

#: The release that was tested.
VERSION = "1.30.0"
INSTALL = f"npm install --no-save onnxruntime-web@{VERSION}"
CDN = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{VERSION}/dist/"
_DIST = Path("node_modules", "onnxruntime-web", "dist")
#: What the page asks for: two builds of the library, each with its WebAssembly file and the script that loads it.
FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)


@dataclass(frozen=True)
class Engine:
    """Where the page gets onnxruntime-web from.

    Attributes:
        url: its folder, as the page says it: below this server, or a public one.
        files: what this server hands out of it, by name.
    """

    url: str
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """What the page's Content-Security-Policy must allow besides this server; empty if nothing."""
        return "" if self.files else "/".join(self.url.split("/")[:3])


def from_cdn() -> Engine:
    """The public server; the page fetches from it, and works with a network only."""
    return Engine(CDN)


def from_folder(folder: Path | None = None, *, start: Path | None = None) -> Engine:
    """The package in `folder`, or in the first node_modules from `start` (the working folder) up.

    Raises:
        UsageError: `folder` does not hold it.
        MachineError: no folder holds it.
    """
    do = f"run: {INSTALL}"
    if folder is not None:
        inner = [path for path in (folder, folder / "dist") if not _missing(path)]
        if not inner:
            expected = f"the folder dist of onnxruntime-web {VERSION}, with {FILES[0]}"
            raise UsageError("onnxruntime-web is not there", where=folder, expected=expected, do=do)
        return _engine(inner[0])
    here = (start or Path.cwd()).absolute()
    incomplete = None
    for dist in _candidates(here):
        if not (missing := _missing(dist)):
            return _engine(dist)
        incomplete = incomplete or f"{dist} without {missing[0]}"
    raise MachineError(
        "onnxruntime-web is not installed",
        where=f"{_DIST}, in {here} and above",
        got=incomplete,
        do=f"{do}, or pass --ort DIR, or --cdn to fetch it from {CDN.split('/')[2]}",
    )


def _candidates(here: Path) -> Iterator[Path]:
    for above in (here, *here.parents):
        if (above / _DIST).is_dir():
            yield above / _DIST


def _missing(dist: Path) -> list[str]:
    return [name for name in FILES if not (dist / name).is_file()]


def _engine(dist: Path) -> Engine:
    return Engine("/ort/", {name: dist / name for name in FILES})
