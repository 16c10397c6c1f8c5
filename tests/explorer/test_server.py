"""`explore` serves its page, a checked bundle and onnxruntime-web to this machine only, and reports what is missing."""

from __future__ import annotations

import http.client
import shutil
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.commands import ROOT, command, run_cli
from tests.conftest import Outcome
from tests.explorer.conftest import PAGE, exploring
from tests.required import require_module
from vae_export.bundles import open_bundle
from vae_export.cli.explore import REFERENCE
from vae_export.explorer.server import (
    CDN_URL,
    PACKAGE_FOLDER,
    RUNTIME_FILES,
    VERSION,
    Server,
    WebRuntime,
    build_routes,
)


@pytest.fixture
def fake_ort(tmp_path: Path) -> Path:
    """A folder with the file names of onnxruntime-web; the server does not read their contents."""
    dist = tmp_path / "somewhere" / "node_modules" / "onnxruntime-web" / "dist"
    dist.mkdir(parents=True)
    for name in (*RUNTIME_FILES, "ort.all.js"):
        (dist / name).write_text(name)
    return dist


@pytest.fixture
def server(fake_ort: Path) -> Iterator[Server]:
    with Server(build_routes(b"PK", "test.zip", WebRuntime.from_folder(fake_ort)), 0) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def test_page_bundle_and_runtime_are_served_with_their_types(server: Server) -> None:
    assert {path.name for path in PAGE.iterdir()} >= {"index.html", "style.css", "main.js", "worker.js"}
    for path, type, content in (
        ("/", "text/html; charset=utf-8", (PAGE / "index.html").read_bytes()),
        ("/main.js?x=1", "text/javascript; charset=utf-8", (PAGE / "main.js").read_bytes()),
        ("/style.css", "text/css; charset=utf-8", (PAGE / "style.css").read_bytes()),
        ("/vae-bundle/index.js", "text/javascript; charset=utf-8", (PACKAGE_FOLDER / "index.js").read_bytes()),
        ("/icon.svg", "image/svg+xml", (PAGE / "icon.svg").read_bytes()),
        ("/bundle.zip", "application/zip", b"PK"),
        ("/settings.json", "application/json", b'{"bundle": "test.zip", "engine": "/ort/"}'),
        ("/ort/ort.wasm.min.mjs", "text/javascript; charset=utf-8", b"ort.wasm.min.mjs"),
        (f"/ort/{RUNTIME_FILES[2]}", "application/wasm", RUNTIME_FILES[2].encode()),
    ):
        response, got = ask(server, path)
        assert (response.status, response.getheader("Content-Type"), got) == (200, type, content), path
    response, got = ask(server, "/", "HEAD")
    assert (response.status, got) == (200, b"")
    assert int(response.getheader("Content-Length") or 0) == (PAGE / "index.html").stat().st_size


def test_headers_isolate_the_page(server: Server) -> None:
    for path in ("/", "/worker.js", "/ort/ort.wasm.min.mjs", "/nothing"):
        headers = ask(server, path)[0].headers
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Access-Control-Allow-Origin"] is None
        rules = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
        assert rules["default-src"] == "'none'"
        assert rules["script-src"] == "'self' 'wasm-unsafe-eval'"
        assert rules["connect-src"] == "'self'"


@pytest.mark.parametrize(
    "path",
    ["/index.html", "/page/", "/../server.py", "/%2e%2e/server.py", "//etc/passwd", "/ort/", "/ort/ort.all.js",
     "/ort/../server.py", "/bundle.zip/", "/main.js%00"],
)  # fmt: skip
def test_other_path_is_not_found(server: Server, path: str) -> None:
    assert ask(server, path)[0].status == 404


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1", "127.0.0.1:1", "localhost.example.org", ""])
def test_other_host_name_is_refused(server: Server, host: str) -> None:
    response, content = ask(server, "/bundle.zip", Host=host)
    assert response.status == 421
    assert b"PK" not in content


def test_own_host_names_are_answered(server: Server) -> None:
    for host in ("127.0.0.1", "localhost", "LOCALHOST"):
        assert ask(server, "/bundle.zip", Host=f"{host}:{server.server_port}")[1] == b"PK"


def test_host_names_without_the_usual_port_are_answered(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    """A browser leaves port 80 out of the header."""
    monkeypatch.setattr(server, "server_port", 80)
    assert {"127.0.0.1", "localhost", "localhost:80"} <= server.own_hosts()
    assert "127.0.0.1" not in Server.own_hosts(SimpleNamespace(server_port=8765))  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(server: Server, method: str) -> None:
    assert ask(server, "/", method)[0].status == 501


def test_server_listens_on_this_machine_only(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_malformed_request_leaves_the_server_running(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as stranger:
        stranger.sendall(b"\x16\x03\x01 no words\r\n\r\n")
        stranger.recv(100)
    assert ask(server, "/")[0].status == 200


def test_cdn_runtime_is_allowed_by_the_policy() -> None:
    runtime = WebRuntime.from_cdn()
    assert runtime == WebRuntime(CDN_URL)
    assert f"@{VERSION}/" in runtime.url
    with Server(build_routes(b"", "x", runtime), 0, origin=runtime.origin) as server:
        policy = server.headers["Content-Security-Policy"]
        assert "script-src 'self' 'wasm-unsafe-eval' https://cdn.jsdelivr.net blob:" in policy
        assert not [path for path in server.resources if path.startswith("/ort/")]


def test_package_is_found_in_a_parent_folder(fake_ort: Path) -> None:
    inner = fake_ort.parents[2] / "a" / "b"
    inner.mkdir(parents=True)
    assert WebRuntime.from_folder(start=inner).files == {name: fake_ort / name for name in RUNTIME_FILES}
    assert WebRuntime.from_folder(fake_ort.parent) == WebRuntime.from_folder(fake_ort)  # the package, or its dist


@pytest.mark.slow
def test_missing_or_incomplete_package_names_the_install_command(bundle: Path, fake_ort: Path, tmp_path: Path) -> None:
    done = run_cli("explore", "--bundle", bundle, "--no-open", cwd=tmp_path)
    assert done.returncode == 6
    assert done.stderr.count("\n") == 1
    assert f"npm install --no-save onnxruntime-web@{VERSION}" in done.stderr
    assert "--cdn" in done.stderr
    (fake_ort / RUNTIME_FILES[-1]).unlink()
    done = run_cli("explore", "--bundle", bundle, "--no-open", cwd=fake_ort)
    assert done.returncode == 6
    assert f"without {RUNTIME_FILES[-1]}" in done.stderr
    done = run_cli("explore", "--bundle", bundle, "--no-open", "--ort", tmp_path, cwd=tmp_path)
    assert done.returncode == 2


@pytest.mark.slow
def test_broken_bundle_is_reported_before_a_missing_package(tmp_path: Path) -> None:
    (tmp_path / "broken.zip").write_bytes(b"no archive")
    done = run_cli("explore", "--bundle", "broken.zip", "--no-open", cwd=tmp_path)
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert "broken.zip" in done.stderr


def test_conflicting_options_are_refused(invoke: Callable[..., Outcome], tmp_path: Path) -> None:
    assert invoke("explore", "--bundle", "a.zip", "--run", tmp_path).code == 2
    assert invoke("explore", "--ort", tmp_path, "--cdn").code == 2
    assert invoke("explore", "--port", 65536).code == 2


def test_port_in_use_is_a_one_line_error(invoke: Callable[..., Outcome], bundle: Path, server: Server) -> None:
    said = invoke("explore", "--bundle", bundle, "--cdn", "--no-open", "--port", server.server_port)
    assert said.code == 6
    assert said.err.startswith(f"vae-export: error: port is in use: 127.0.0.1:{server.server_port}; pass --port 0")
    assert said.err.count("\n") == 1


def test_altered_bundle_is_not_served(invoke: Callable[..., Outcome], bundle: Path, tmp_path: Path) -> None:
    data = bytearray(bundle.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.zip").write_bytes(data)
    said = invoke("explore", "--bundle", tmp_path / "bad.zip", "--cdn", "--no-open", "--port", 0)
    assert said.code == 4
    assert "file was altered" in said.err
    assert said.out == ""


def fetched(address: str, path: str) -> bytes:
    connection = http.client.HTTPConnection(address.removeprefix("http://").rstrip("/"), timeout=10)
    connection.request("GET", path)
    content = connection.getresponse().read()
    connection.close()
    return content


@pytest.mark.slow
def test_run_is_served_as_a_bundle_of_its_onnx_files(run_folder: Path, fake_ort: Path, tmp_path: Path) -> None:
    before = sorted(run_folder.rglob("*"))
    with exploring("--run", run_folder, "--ort", fake_ort) as address:
        (tmp_path / "got.zip").write_bytes(fetched(address, "/bundle.zip"))
    opened = open_bundle(tmp_path / "got.zip")
    assert {entry.format for entry in opened.manifest.files} == {"onnx"}
    assert opened.card.startswith("# run\n")
    assert sorted(run_folder.rglob("*")) == before


@pytest.mark.slow
def test_reference_bundle_is_served_without_a_run(
    invoke: Callable[..., Outcome], fake_ort: Path, tmp_path: Path
) -> None:
    said = invoke("explore", "--ort", fake_ort, "--no-open")
    assert (said.code, "no run found" in said.err) == (2, True)
    reference = tmp_path / "clone" / REFERENCE
    reference.parent.mkdir(parents=True)
    shutil.copy(ROOT / REFERENCE, reference)
    with exploring("--ort", fake_ort, cwd=tmp_path / "clone") as address:
        assert fetched(address, "/bundle.zip") == reference.read_bytes()


@pytest.mark.slow
def test_page_opens_in_the_browser(bundle: Path, fake_ort: Path, tmp_path: Path) -> None:
    script = tmp_path / "browser"
    script.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened.tmp && mv {tmp_path}/opened.tmp {tmp_path}/opened\n')
    script.chmod(0o755)
    process = subprocess.Popen(
        command("explore", "--bundle", bundle, "--ort", fake_ort, "--port", 0),
        stdout=subprocess.PIPE,
        text=True,
        env={"BROWSER": f"{script} %s", "PATH": "/usr/bin:/bin"},
        cwd=ROOT,
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    for _ in range(200):
        if (tmp_path / "opened").exists():
            break
        threading.Event().wait(0.05)
    process.terminate()
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    process.stdout.close()
    assert (tmp_path / "opened").read_text().strip() == address


@pytest.mark.slow
def test_wheel_contains_the_page_and_the_package(tmp_path: Path) -> None:
    require_module("hatchling")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    [wheel] = tmp_path.glob("*.whl")
    files = zipfile.ZipFile(wheel).namelist()
    for folder, source in (("page", PAGE), ("vae-bundle", PACKAGE_FOLDER)):
        packed = {Path(name).name for name in files if f"/explorer/{folder}/" in name}
        assert packed == {path.name for path in source.iterdir()}
