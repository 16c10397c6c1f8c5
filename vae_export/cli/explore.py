"""`explore`: a page on this machine that runs a bundle in the browser."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated

import typer

from vae_export.cli import console
from vae_export.cli.options import RunOption, chosen_run
from vae_export.errors import Terminated, UsageError
from vae_export.runs import ARTIFACTS, Run, newest_run

#: What is explored where nothing was trained yet.
REFERENCE = ARTIFACTS / "reference" / "mnist.zip"


def explore(
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", help="A bundle, made by `bundle`. Default: the newest run.", show_default=False),
    ] = None,
    run: RunOption = None,
    port: Annotated[
        int, typer.Option("--port", help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)
    ] = 8765,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
    ort: Annotated[
        Path | None,
        typer.Option(
            "--ort",
            help="Folder of onnxruntime-web. Default: the first node_modules from here up that has it.",
            show_default=False,
        ),
    ] = None,
    cdn: Annotated[
        bool, typer.Option("--cdn", help="Let the page fetch onnxruntime-web from cdn.jsdelivr.net.")
    ] = False,
) -> None:
    """Explore a model in the browser: a page, on this machine only, that runs encoder and decoder by itself.

    Sliders, a pad over two latents, random samples, own images and drawings, ways from one image to another; and the
    self-test against the golden vectors. The engine, onnxruntime-web, comes from npm. Without --bundle and --run the
    newest run is shown, or the reference bundle where there is none. Ctrl-C ends it, with exit code 0.
    """
    for first, second in ((("--bundle", bundle), ("--run", run)), (("--ort", ort), ("--cdn", cdn or None))):
        if first[1] is not None and second[1] is not None:
            raise UsageError(f"{first[0]} and {second[0]} exclude each other", do="name one of them")

    from vae_export.explorer.server import Server, from_cdn, from_folder, routes

    data, name = _bundle(bundle, run)
    engine = from_cdn() if cdn else from_folder(ort)
    with Server(routes(data, name, engine), port, origin=engine.origin) as server:
        console.result(server.url)
        console.message(f"exploring {name}; Ctrl-C ends it")
        if open_page:
            # On the side: a browser of the terminal's comes back only when it is closed, and wants answers until then.
            threading.Thread(target=_show, args=(server.url,), daemon=True).start()
        try:
            server.serve_forever()
        except Terminated:
            raise
        except KeyboardInterrupt:  # the one way to end it: nothing was interrupted
            console.message("ended")


def _bundle(path: Path | None, run: Path | None) -> tuple[bytes, str]:
    """The bytes of the bundle to show, checked, and its name; a run's are packed in memory."""
    from vae_export.artifact.certificate import read_certificate
    from vae_export.artifact.folder import open_artifact
    from vae_export.bundle import open_bundle, pack

    if path is None and run is None and not any(ARTIFACTS.glob(f"*/{Run(ARTIFACTS).checkpoint.name}")):
        if not REFERENCE.is_file():
            newest_run()  # says that there is none, and what to do
        path = REFERENCE
    if path is not None:
        opened = open_bundle(path)
        opened.manifest.finest("decoder")
        return path.read_bytes(), path.name
    chosen = chosen_run(run)
    artifact = open_artifact(chosen.export)
    artifact.manifest.finest("decoder")
    title = chosen.folder.absolute().name
    return pack(artifact, read_certificate(artifact.certificate), name=title, formats=["onnx"]), title


def _show(url: str) -> None:
    import webbrowser

    try:
        opened = webbrowser.open(url)
    except webbrowser.Error:
        opened = False
    if not opened:
        console.message("no browser could be opened: open the address yourself")
