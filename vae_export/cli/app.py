"""The application: its commands, and the one place that turns errors into a line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from vae_export._version import __version__
from vae_export.cli import console
from vae_export.cli.batch import decode, encode, reconstruct, sample
from vae_export.cli.bench import bench
from vae_export.cli.bundle import bundle, inspect
from vae_export.cli.command import Command, usage_error
from vae_export.cli.doctor import doctor
from vae_export.cli.explore import explore
from vae_export.cli.export import export
from vae_export.cli.tune import tune
from vae_export.cli.verify import verify
from vae_export.errors import Interrupted, OutOfMemoryError, Terminated, UsageError, VaeExportError
from vae_export.system.signals import is_exiting_on_interrupt

Function = Callable[..., None]

#: Commands that need `train/`, which is in the checkout and not in the installed package.
CHECKOUT_ONLY = ("train", "evaluate", "runs")
_DEBUG = "VAE_EXPORT_DEBUG"
#: Signals by Ctrl-C that this process has received.
_interruptions: list[int] = []


def start_installed() -> NoReturn:
    """Run the commands of `vae-export`; a command that needs `train/` raises `UsageError`, which says where it is."""

    def refusing(name: str) -> Function:
        def refuse(_: Annotated[list[str] | None, typer.Argument()] = None) -> None:
            what = f"'{name}' is part of the project's checkout, in train/, and not of the package"
            raise UsageError(what, do=f"clone the project and run: python cli.py {name}")

        refuse.__name__ = name
        refuse.__doc__ = f"In the project's checkout only: python cli.py {name}"
        return refuse

    main(*(refusing(name) for name in CHECKOUT_ONLY), completion=True)


def main(*commands: Function, completion: bool = False) -> NoReturn:
    """Call `run` and end this process with its exit code."""
    code = run(*commands, completion=completion)
    # Everything is flushed and closed by now. The interpreter's own exit would take a second to unload PyTorch, and
    # would crash if an engine was interrupted during its imports: 130 would become a segmentation fault.
    os._exit(code)


def run(*commands: Function, completion: bool = False) -> int:
    """Run the command that the arguments of this process name, and return its exit code.

    Args:
        commands: in addition to the library's.
        completion: whether there are options that install shell completion. They need a name that a shell completes,
            which `python cli.py` has not.
    """
    signal.signal(signal.SIGTERM, _terminate)
    _interruptions.clear()
    if is_exiting_on_interrupt():
        signal.signal(signal.SIGINT, _interrupt)
    console.open_closed()
    code = _outcome(build(*commands, completion=completion))
    _flush()
    return code


def build(*commands: Function, completion: bool = False) -> typer.Typer:
    """Return the application; `commands` come first in its help."""
    app = typer.Typer(
        name="vae-export",
        help="Train a VAE, export its encoder and decoder, and prove that the files compute what PyTorch computed.",
        add_completion=completion,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback(invoke_without_command=True)(_options)
    library: tuple[Function, ...] = (
        *(export, verify, bench, tune, bundle, inspect, explore),
        *(sample, decode, encode, reconstruct, doctor),
    )
    for command in (*commands, *library):
        # A command that only says where to find it takes any arguments.
        lenient = {"ignore_unknown_options": True} if command.__module__ == __name__ else {}
        app.command(cls=Command, context_settings=lenient)(command)
    return app


def _options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
) -> None:
    if version:
        console.result(f"vae-export {__version__}")
        raise typer.Exit
    if debug:
        os.environ[_DEBUG] = "1"
    if context.invoked_subcommand is None:
        console.message(context.get_help())
        raise typer.Exit(UsageError.exit_code)


def _outcome(app: typer.Typer) -> int:
    try:
        # Not `app()`: typer turns every KeyboardInterrupt into 130, also ours for SIGTERM.
        command = typer.main.get_command(app)
        program = Path(sys.argv[0]).name
        command._main_shell_completion({}, program)  # exits if a shell asks for completions
        with command.make_context(program, sys.argv[1:]) as context:
            command.invoke(context)
        return 0
    except typer.Exit as exit:
        return exit.exit_code
    except BrokenPipeError:  # the reader of a help page went away
        return 0
    except typer.TyperException as error:
        return _fail(usage_error(error))
    except VaeExportError as error:
        return _fail(error)
    except (KeyboardInterrupt, typer.Abort) as stop:
        return _stopped(stop)
    except MemoryError as error:
        return _fail(OutOfMemoryError(str(error)))
    except Exception as error:
        if _interruptions:  # an engine turned a Ctrl-C during its imports into an error of its own
            return _stopped(Interrupted())
        return _fail(
            VaeExportError(f"internal error: {type(error).__name__}: {error}", do="run with --debug and report it")
        )


def _stopped(stop: BaseException) -> int:
    name, code = (
        ("terminated", Terminated.exit_code) if isinstance(stop, Terminated) else ("interrupted", Interrupted.exit_code)
    )
    console.message(f"vae-export: {name}" + (f": {stop}" if str(stop) else ""))
    return code


def _fail(error: VaeExportError) -> int:
    if os.environ.get(_DEBUG):
        console.message(traceback.format_exc().rstrip())
    console.message(f"vae-export: error: {error}")
    return error.exit_code


def _interrupt(signum: int, _frame: FrameType | None) -> NoReturn:
    _interruptions.append(signum)
    raise KeyboardInterrupt


def _terminate(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            console.silence(stream)
