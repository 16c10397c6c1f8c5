"""From a path to a model: a bundle or an export folder, by what lies there."""

from __future__ import annotations

from pathlib import Path

from vae_export.artifact import Package, open_artifact
from vae_export.bundle import open_bundle
from vae_export.errors import ModelError
from vae_export.precision import PrecisionName
from vae_export.runtime.model import Model


def load(
    path: str | Path,
    *,
    precision: PrecisionName | None = None,
    provider: str | None = None,
    threads: int | None = None,
    batch_size: int | None = None,
) -> Model:
    """Open a bundle or an export folder for running.

    Where it was tuned on a machine like this one (`vae-export tune`), and none of precision, provider and threads is
    given, it runs as was recommended; `Model.running` says so, or why not.

    Args:
        path: a bundle such as mnist.zip, or the folder of `export`, with its manifest.json.
        precision: of the files, such as "int8"; None takes float32, or what there is.
        provider: an ONNX Runtime provider; used, or refused with `TargetError`, never replaced in silence. None takes
            the CPU.
        threads: within an operator; None lets ONNX Runtime choose.
        batch_size: rows that go through a network at a time; None chooses by their size.

    Raises:
        ModelError, IntegrityError: nothing that can be read lies there, or a file is not the one that was packed.
    """
    return Model(open_package(path), precision=precision, provider=provider, threads=threads, batch_size=batch_size)


def open_package(path: str | Path) -> Package:
    """A bundle or an export folder, by what lies there; raises as `load` does."""
    expected, do = "a bundle, or the folder of an export", "run: vae-export export"
    try:
        there = Path(path).exists()
    except OSError as error:  # a name too long, a folder that nobody may enter
        where = f"{str(path)[:60]}…" if len(str(path)) > 60 else path
        raise ModelError("no export here", where=where, expected=expected, got=error.strerror, do=do) from error
    if not there:
        raise ModelError("no export here", where=path, expected=expected, do=do)
    return open_artifact(path) if Path(path).is_dir() else open_bundle(path)
