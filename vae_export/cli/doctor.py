"""`doctor`: what this machine has, what can be written and run here, and what would change that."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from vae_export.cli import console
from vae_export.cli.options import JsonOption


def doctor(json: JsonOption = False) -> None:
    """Show what this machine can write and run.

    Versions, devices, ONNX Runtime's providers, formats; and the pip line that would change what is missing.
    """
    from vae_export import machine

    found = machine.examine()
    if json:
        console.result_json(found.to_json())
        return
    console.result(
        _table(("package", "version"), [(name, version or "not installed") for name, version in found.versions.items()])
    )
    console.result("")
    console.result(
        _table(("device or provider", "state"), [(name, state or "ready") for name, state in found.devices.items()])
    )
    console.result("")
    missing = [(f"pip install 'vae-export[{extra}]'", state) for extra, state in found.extras.items() if state]
    rows = [
        (item.name, item.summary, item.unavailable or "ready", ", ".join(item.targets) or "-") for item in found.formats
    ]
    console.result(_table(("format", "what for", "writing", "runs on"), rows))
    if missing:
        console.result("")
        console.result(_table(("to have more", "which is missing here"), missing))


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(*head, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table
