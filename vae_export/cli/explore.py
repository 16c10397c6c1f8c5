"""`explore`: serve a page on this machine that runs a bundle in the browser."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vae_export.cli import console
from vae_export.cli.options import (
    BundleOption,
    RunOption,
    VerifyKeyOption,
    chosen_run,
    refuse_together,
    require_bundle,
)
from vae_export.contract import float_part
from vae_export.errors import Terminated
from vae_export.runs import ARTIFACTS, Run, newest_run

if TYPE_CHECKING:
    from vae_export.artifact.manifest import Manifest

#: Shown where nothing was trained yet.
REFERENCE = ARTIFACTS / "reference" / "mnist.zip"


def explore(
    bundle: BundleOption = None,
    verify_key: VerifyKeyOption = None,
    run: RunOption = None,
    port: Annotated[
        int, typer.Option("--port", help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)
    ] = 8765,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
    ort: Annotated[
        Path | None,
        typer.Option("--ort", metavar="FOLDER", help="Folder of onnxruntime-web. Default: node_modules here or above."),
    ] = None,
    cdn: Annotated[bool, typer.Option("--cdn", help="Load onnxruntime-web from cdn.jsdelivr.net.")] = False,
) -> None:
    """Explore a model in the browser.

    Serves a page, on this machine only, that runs encoder and decoder in the browser: sliders, a pad over two latents,
    random samples, your own images and drawings, interpolation between images, and the self-test against the golden
    vectors. It needs onnxruntime-web from npm. Without --bundle and --run the newest run is shown, or the reference
    bundle where there is none. Ctrl-C ends it, with exit code 0.
    """
    refuse_together(bundle=bundle, run=run)
    refuse_together(ort=ort, cdn=cdn)
    require_bundle(verify_key, bundle)

    from vae_export.explorer.server import Server, WebRuntime, build_routes

    data, name = _bundle(bundle, run, verify_key)
    runtime = WebRuntime.from_cdn() if cdn else WebRuntime.from_folder(ort)
    with Server(build_routes(data, name, runtime), port, origin=runtime.origin) as server:
        console.result(server.url)
        console.message(f"exploring {name}; Ctrl-C ends it")
        if open_page:
            # In a thread: a browser in the terminal returns only when it is closed, and needs the server until then.
            threading.Thread(target=_show, args=(server.url,), daemon=True).start()
        try:
            server.serve_forever()
        except Terminated:
            raise
        except KeyboardInterrupt:  # the usual way to end the command, and so no error
            console.message("ended")


def _bundle(path: Path | None, run: Path | None, verify_key: Path | None) -> tuple[bytes, str]:
    """Return the checked bytes of the bundle to show, and its name; a run is packed in memory."""
    from vae_export.artifact.certificate import read_certificate
    from vae_export.artifact.folder import open_artifact
    from vae_export.bundles import open_bundle
    from vae_export.bundles.writer import pack

    if path is None and run is None and not any(ARTIFACTS.glob(f"*/{Run(ARTIFACTS).checkpoint.name}")):
        if not REFERENCE.is_file():
            newest_run()  # raises the error that says what to do
        path = REFERENCE
    if path is not None:
        opened = open_bundle(path, verify_key=verify_key)
        _require_decoder(opened.manifest)
        return path.read_bytes(), path.name
    chosen = chosen_run(run, exported=True)
    artifact = open_artifact(chosen.export)
    _require_decoder(artifact.manifest)
    title = chosen.folder.absolute().name
    return pack(artifact, read_certificate(artifact.certificate), name=title, formats=["onnx"]), title


def _require_decoder(manifest: Manifest) -> None:
    """Raise `ModelError` unless there is an ONNX file that decodes, to numbers or to bytes."""
    if not any(float_part(entry.part) == "decoder" for entry in manifest.runtime_files):
        manifest.finest("decoder")  # raises


def _show(url: str) -> None:
    import webbrowser

    try:
        opened = webbrowser.open(url)
    except webbrowser.Error:
        opened = False
    if not opened:
        console.message("no browser could be opened: open the address yourself")
