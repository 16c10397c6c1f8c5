"""Serve a folder, open a page of it in headless Chromium, and read what it writes to the console."""

from __future__ import annotations

import functools
import http.server
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: No window, and no connections but those of the page.
_FLAGS = [
    "--headless", "--no-sandbox", "--no-first-run", "--enable-logging=stderr", "--disable-quic", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
]  # fmt: skip
_CONSOLE = re.compile(r":(\w+):CONSOLE[:(]\d+\)?\] \"(.*)\", source: ")


@dataclass
class Served:
    """A folder that is served.

    Attributes:
        url: URL of the folder.
        sizes: size of each file that was fetched in bytes, by path.
    """

    url: str
    sizes: dict[str, int]


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """Serve a folder on a free port of 127.0.0.1, as `python -m http.server` does."""
    sizes: dict[str, int] = {}

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Write no log."""

        def send_header(self, keyword: str, value: str) -> None:
            if keyword == "Content-Length" and "404" not in str(getattr(self, "_headers_buffer", "")):
                sizes[self.path.split("?")[0]] = int(value)
            super().send_header(keyword, value)

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield Served(f"http://127.0.0.1:{server.server_port}", sizes)
        finally:
            server.shutdown()
            thread.join()


def console(url: str, *flags: str, last: tuple[str, ...], seconds: float = 60) -> tuple[list[str], list[str]]:
    """Open a page until it writes one of the lines `last` or time is up; return its lines, and its complaints."""
    lines: list[str] = []
    complaints: list[str] = []
    # The helper processes of Chromium write to the profile for a moment after it has ended.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = ["chromium", *_FLAGS, *flags, f"--user-data-dir={profile}", url]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            for raw in process.stderr or ():
                if (found := _CONSOLE.search(raw)) is None:
                    continue
                kind, text = found.groups()
                (lines if kind == "INFO" and not text.startswith("Uncaught") else complaints).append(text)
                if text in last or text.startswith("Uncaught"):
                    break
        finally:
            timer.cancel()
            process.terminate()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()
    return lines, complaints
