"""Serve the explorer: its page, one bundle and onnxruntime-web, to this machine only.

A page that any site could read would leak the model. So the server binds to 127.0.0.1 and refuses requests that name
another host, which prevents DNS rebinding (a foreign host name that resolves to 127.0.0.1 would count as the foreign
site). No other site can embed or read its answers. The page can connect only to this server, and to the CDN if that is
requested.
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

HOST = "127.0.0.1"
PAGE_FOLDER = Path(__file__).parent / "page"
#: The JavaScript package, which the page loads. A wheel has it beside this file, and a checkout in js/.
_PACKAGE_FOLDERS = (Path(__file__).parent / "vae-bundle", Path(__file__).parents[2] / "js" / "src")
PACKAGE_FOLDER = next((folder for folder in _PACKAGE_FOLDERS if folder.is_dir()), _PACKAGE_FOLDERS[0])
#: The release of onnxruntime-web that was tested.
VERSION = "1.30.0"
INSTALL_COMMAND = f"npm install --no-save onnxruntime-web@{VERSION}"
CDN_URL = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{VERSION}/dist/"
#: The files that the page loads: two builds, each with its WebAssembly file and the script that loads it.
RUNTIME_FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
_ORT_FOLDER = Path("node_modules", "onnxruntime-web", "dist")
_RUNTIME_PATH = "/ort/"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",  # browsers run a module of no other type
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",  # browsers compile a file of this type while it arrives
    ".zip": "application/zip",
}
#: The port that a browser leaves out of an address, and of the header "Host".
_HTTP_PORT = 80
#: Timeout of an idle connection.
_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class WebRuntime:
    """The files of onnxruntime-web, which runs ONNX files in a browser, and where the page loads them from.

    Attributes:
        url: the folder of its files, as the page sees it: a path on this server, or a public URL.
        files: the files that this server serves, by name; empty for a public URL.
    """

    url: str
    files: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def from_cdn(cls) -> WebRuntime:
        """Return the runtime on a public server, for which the page needs a network."""
        return cls(CDN_URL)

    @classmethod
    def from_folder(cls, folder: Path | None = None, *, start: Path | None = None) -> WebRuntime:
        """Return the runtime in a folder with the npm package.

        Args:
            folder: the package, or its folder `dist`. None searches for a node_modules folder that contains it.
            start: folder where the search starts, to continue in its parents; None is the working folder.

        Raises:
            UsageError: `folder` does not contain the package.
            MachineError: the search found no complete package.
        """
        dist = _find_package(start or Path.cwd()) if folder is None else _dist_folder(folder)
        return cls(_RUNTIME_PATH, {name: dist / name for name in RUNTIME_FILES})

    @property
    def origin(self) -> str:
        """The origin that the page's Content-Security-Policy must allow besides this server; empty if there is none."""
        return "" if self.files else "/".join(self.url.split("/")[:3])


def _dist_folder(folder: Path) -> Path:
    for candidate in (folder, folder / "dist"):
        if not _missing_files(candidate):
            return candidate
    raise UsageError(
        "onnxruntime-web not found",
        where=folder,
        expected=f"the folder dist of onnxruntime-web {VERSION}, with {RUNTIME_FILES[0]}",
        do=f"run: {INSTALL_COMMAND}",
    )


def _find_package(start: Path) -> Path:
    incomplete = None
    for dist in _package_folders(start.absolute()):
        if not (missing := _missing_files(dist)):
            return dist
        incomplete = incomplete or f"{dist} without {missing[0]}"
    raise MachineError(
        "onnxruntime-web is not installed",
        where=f"{_ORT_FOLDER}, in {start.absolute()} and above",
        got=incomplete,
        do=f"run: {INSTALL_COMMAND}, or pass --ort FOLDER, or --cdn to fetch it from {CDN_URL.split('/')[2]}",
    )


def _package_folders(start: Path) -> Iterator[Path]:
    for folder in (start, *start.parents):
        if (folder / _ORT_FOLDER).is_dir():
            yield folder / _ORT_FOLDER


def _missing_files(dist: Path) -> list[str]:
    return [name for name in RUNTIME_FILES if not (dist / name).is_file()]


@dataclass(frozen=True)
class Resource:
    """The answer to one path: bytes, or a file that is read at each request."""

    media_type: str
    content: bytes | Path

    @classmethod
    def from_file(cls, path: Path) -> Resource:
        """Return the resource of a file of the page; its suffix gives the media type."""
        return cls(_MEDIA_TYPES[path.suffix], path)

    def read(self) -> bytes:
        """Return the bytes of the answer; a file is read at each call."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


def build_routes(bundle: bytes, name: str, runtime: WebRuntime) -> dict[str, Resource]:
    """Return the resource of every path that the server answers.

    Args:
        bundle: the bytes of the bundle.
        name: the bundle's name, which the page shows if the model card has no title.
        runtime: the onnxruntime-web that the page loads.

    Returns:
        The resources by path.
    """
    settings = json.dumps({"bundle": name, "engine": runtime.url}).encode()
    page = {f"/{path.name}": Resource.from_file(path) for path in sorted(PAGE_FOLDER.iterdir()) if path.is_file()}
    package = {f"/vae-bundle/{path.name}": Resource.from_file(path) for path in sorted(PACKAGE_FOLDER.glob("*.js"))}
    return {
        "/": page.pop("/index.html"),
        **page,
        **package,
        "/settings.json": Resource(_MEDIA_TYPES[".json"], settings),
        "/bundle.zip": Resource(_MEDIA_TYPES[".zip"], bundle),
        **{f"{_RUNTIME_PATH}{name}": Resource.from_file(path) for name, path in runtime.files.items()},
    }


class Server(ThreadingHTTPServer):
    """An HTTP server that listens on 127.0.0.1 once it is constructed; `serve_forever` answers the requests.

    Args:
        resources: the answers, by path.
        port: the port; 0 takes a free one.
        origin: another origin from which the page may load the runtime; empty for none.

    Raises:
        MachineError: the port is in use, or this process may not open it.
    """

    daemon_threads = True
    # If it were allowed, two servers could listen on one port and would answer in turn.
    allow_reuse_port = False

    def __init__(self, resources: Mapping[str, Resource], port: int, *, origin: str = "") -> None:
        self.resources = resources
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            raise MachineError(
                "port is in use" if in_use else "port cannot be opened",
                where=f"{HOST}:{port}",
                got=None if in_use else error.strerror,
                do="pass --port 0 for a free one",
            ) from error
        self.hosts = self.own_hosts()
        self.headers = {
            # WebAssembly gets threads only on an isolated page, which no other site can embed or read.
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Embedder-Policy": "require-corp",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Content-Security-Policy": _content_security_policy(origin),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{HOST}:{self.server_port}/"

    def own_hosts(self) -> set[str]:
        """Return the values of the header "Host" that name this server."""
        names = {HOST, "localhost"}
        return {f"{name}:{self.server_port}" for name in names} | (names if self.server_port == _HTTP_PORT else set())

    def server_bind(self) -> None:
        """Bind without looking up the name of this machine, which can take seconds without a network."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]  # an address of IPv4 is these two

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a browser that closes the connection in the middle of an answer."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "vae-export", ""
    timeout = _TIMEOUT_SECONDS

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        if self.headers.get("Host", "").lower() not in self.server.hosts:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return
        resource = self.server.resources.get(self.path.partition("?")[0])
        if resource is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            content = resource.read()
        except OSError:  # the folder of the runtime was removed
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", resource.media_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def end_headers(self) -> None:
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the terminal shows the address of the page."""


def _content_security_policy(origin: str) -> str:
    """Return the Content-Security-Policy of the page; 'wasm-unsafe-eval' allows only the compilation of WebAssembly."""
    blobs = " blob:" if origin else ""  # a runtime from another origin starts its threads through blobs
    rules = {
        "default-src": "'none'",
        "script-src": f"'self' 'wasm-unsafe-eval' {origin}{blobs}",
        "connect-src": f"'self' {origin}",
        "worker-src": f"'self'{blobs}",
        "style-src": "'self'",
        "img-src": "'self' blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value.strip()}" for name, value in rules.items())
