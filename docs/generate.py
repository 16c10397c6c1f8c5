"""Writes docs/commands.md from the command line itself. A test compares the two, so that the page cannot rot.

python docs/generate.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import typer
from typer.testing import CliRunner

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "commands.md"

HEAD = """# Commands

Made by `python docs/generate.py` from the commands' own help. From a checkout they are called as `python cli.py …`;
the installed `vae-export` has all but `train`, `evaluate` and `runs`.

`vae-export --install-completion` lets bash, zsh, fish or PowerShell complete commands, options and choices.

Results go to stdout, progress and messages to stderr. A failing command prints one line,
`vae-export: error: WHAT: WHERE; expected X, got Y; do Z`, and leaves nothing half-written under a final name.

| exit | means |
|---|---|
"""

EXITS = {
    0: "done, and verified where the command verifies",
    1: "a bug of ours: `--debug` shows the traceback",
    2: "usage: a bad option, an output that exists",
    3: "bad input: data, checkpoint or model that cannot be read or does not fit",
    4: "integrity: a hash or a manifest does not match",
    5: "parity: an exported file does not compute what PyTorch computes",
    6: "this machine: no such device or provider, disk full, folder read-only or locked, memory used up",
    130: "interrupted; what was trained is saved first",
    143: "terminated; the same",
}


def page() -> str:
    """The whole page."""
    sys.path.insert(0, str(ROOT))
    from train.cli import evaluate, runs, train
    from vae_export.cli.app import build
    from vae_export.formats import FORMATS

    app = build(train, evaluate, runs)
    text = HEAD + "".join(f"| {code} | {meaning} |\n" for code, meaning in EXITS.items())
    text += "\n## Formats\n\n| `--format` | file | what for | needs |\n|---|---|---|---|\n"
    for format in FORMATS.values():
        needs = f"`pip install 'vae-export[{format.extra}]'`"
        text += f"| `{format.name}` | `<part>{format.suffix}` | {format.summary} | {needs} |\n"
    names = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]
    for arguments in ([], *([name] for name in names)):
        title = " ".join(["python cli.py", *arguments])
        text += f"\n## {title}\n\n```text\n{_help(app, arguments)}\n```\n"
    return text


def _help(app: typer.Typer, arguments: list[str]) -> str:
    result = CliRunner(env={"COLUMNS": "100", "TERMINAL_WIDTH": "100"}).invoke(
        app, [*arguments, "--help"], prog_name="cli.py"
    )
    return "\n".join(line.rstrip() for line in result.output.strip().splitlines())


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
