"""onnxruntime-web, which runs ONNX files in a browser: an npm package on disk, or a public server if asked for.

Hands out the page, one bundle and onnxruntime-web: to this machine only, and nothing else.

A page that any site could read would leak the model, so: bound to 127.0.0.1; requests that name another host are
refused (a stranger's name that resolves to 127.0.0.1 would otherwise count as his own site: DNS rebinding); no other
site may embed or read what is served; and the page can reach nothing but this server, and the CDN if asked for.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any

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
class WebRuntime:
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


def from_cdn() -> WebRuntime:
    """The public server; the page fetches from it, and works with a network only."""
    return WebRuntime(CDN)


def from_folder(folder: Path | None = None, *, start: Path | None = None) -> WebRuntime:
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


def _engine(dist: Path) -> WebRuntime:
    return WebRuntime("/ort/", {name: dist / name for name in FILES})


HOST = "127.0.0.1"
PAGE_FOLDER = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",  # browsers run a module of this type only
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",  # compiled while it arrives, with this type only
    ".zip": "application/zip",
}
#: Seconds that a connection may be silent.
_PATIENCE = 60


@dataclass(frozen=True)
class Resource:
    """What one route answers: bytes, or a file that is read when it is asked for."""

    type: str
    content: bytes | Path

    def read(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


def routes(bundle: bytes, name: str, engine: WebRuntime) -> dict[str, Resource]:
    """Every path that is answered.

    Args:
        bundle: the file's bytes.
        name: what the page calls it.
        engine: where the page gets onnxruntime-web from.
    """
    settings = json.dumps({"bundle": name, "engine": engine.url}).encode()
    pages = {f"/{path.name}": _resource(path) for path in sorted(PAGE_FOLDER.iterdir())}
    return {
        "/": pages.pop("/index.html"),
        **pages,
        "/settings.json": Resource(_TYPES[".json"], settings),
        "/bundle.zip": Resource(_TYPES[".zip"], bundle),
        **{f"/ort/{name}": _resource(path) for name, path in engine.files.items()},
    }


class Server(ThreadingHTTPServer):
    """Listens from the moment it is made; `serve_forever` answers.

    Args:
        resources: what to answer, by path.
        port: 0 takes a free one.
        origin: a further origin that the page may load the engine from; empty for none.

    Raises:
        MachineError: the port is taken, or needs rights that this process does not have.
    """

    daemon_threads = True
    # Two servers on one port would answer in turn.
    allow_reuse_port = False

    def __init__(self, resources: Mapping[str, Resource], port: int, *, origin: str = "") -> None:
        self.resources = resources
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise MachineError(
                "port is in use" if taken else "port cannot be opened",
                where=f"{HOST}:{port}",
                got=None if taken else error.strerror,
                do="pass --port 0 for a free one",
            ) from error
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}
        self.headers = {
            # Threads of WebAssembly need an isolated page; no other site may embed or read anything.
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Embedder-Policy": "require-corp",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Content-Security-Policy": _policy(origin),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def server_bind(self) -> None:
        """Without looking up this machine's name, which can take seconds where no network is."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]  # an address of IPv4 is these two

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is no event."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "vae-export", ""
    timeout = _PATIENCE

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        if self.headers.get("Host", "").lower() not in self.server.hosts:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return
        resource = self.server.resources.get(self.path.partition("?")[0])
        if resource is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            content = resource.read()
        except OSError:  # the engine's folder went away
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", resource.type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def end_headers(self) -> None:
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Silence: the terminal is for the address of the page."""


def _policy(origin: str) -> str:
    """What the page may load. 'wasm-unsafe-eval' lets WebAssembly be compiled, and nothing else."""
    workers = "'self' blob:" if origin else "'self'"  # an engine from elsewhere starts its threads through blobs
    rules = {
        "default-src": "'none'",
        "script-src": f"'self' 'wasm-unsafe-eval' {origin}" + (" blob:" if origin else ""),
        "connect-src": f"'self' {origin}",
        "worker-src": workers,
        "style-src": "'self'",
        "img-src": "'self' blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value.strip()}" for name, value in rules.items())


def _resource(path: Path) -> Resource:
    return Resource(_TYPES[path.suffix], path)
