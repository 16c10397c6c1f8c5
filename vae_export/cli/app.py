"""The application: its commands, and the one place that turns errors into a line and an exit code."""

from __future__ import annotations

import gc
import os
import pkgutil
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
from vae_export.cli.command import Command, CommandGroup, usage_error
from vae_export.errors import Interrupted, OutOfMemoryError, Terminated, UsageError, VaeExportError
from vae_export.system.signals import is_exiting_on_interrupt

Function = Callable[..., None]

#: The library's commands in the order of the help, as "module:function". A module is imported only if its command is
#: called or all commands are listed, because importing all of them takes longer than most commands need to start.
LIBRARY_COMMANDS = (
    "vae_export.cli.export:export",
    "vae_export.cli.verify:verify",
    "vae_export.cli.bench:bench",
    "vae_export.cli.tune:tune",
    "vae_export.cli.bundle:bundle",
    "vae_export.cli.bundle:inspect",
    "vae_export.cli.explore:explore",
    "vae_export.cli.serve:serve",
    "vae_export.cli.batch:sample",
    "vae_export.cli.batch:decode",
    "vae_export.cli.batch:encode",
    "vae_export.cli.batch:reconstruct",
    "vae_export.cli.doctor:doctor",
)
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


def main(*commands: Function | str, completion: bool = False) -> NoReturn:
    """Call `run` and end this process with its exit code."""
    # Almost everything that a command allocates is a module that stays, and looking through those again and again for
    # garbage takes a sixth of an export.
    gc.set_threshold(100_000, 50, 100)
    code = run(*commands, completion=completion)
    # Everything is flushed and closed by now. The interpreter's own exit would take a second to unload PyTorch, and
    # would crash if an engine was interrupted during its imports: 130 would become a segmentation fault.
    os._exit(code)


def run(*commands: Function | str, completion: bool = False) -> int:
    """Run the command that the arguments of this process name, and return its exit code.

    Args:
        commands: in addition to the library's: functions, or "module:function" to import when it is called.
        completion: whether there are options that install shell completion. They need a name that a shell completes,
            which `python cli.py` has not.
    """
    app = build(*commands, completion=completion, name=sys.argv[1] if len(sys.argv) > 1 else None)
    signal.signal(signal.SIGTERM, _terminate)
    _interruptions.clear()
    if is_exiting_on_interrupt():
        signal.signal(signal.SIGINT, _interrupt)
    console.open_closed()
    code = _outcome(app)
    _flush()
    return code


def build(*commands: Function | str, completion: bool = False, name: str | None = None) -> typer.Typer:
    """Return the application.

    Args:
        commands: in addition to the library's, and before them in the help.
        completion: whether there are options that install shell completion.
        name: the command that will be called; the others are left out. All are there if no command has this name.
    """
    app = typer.Typer(
        name="vae-export",
        cls=CommandGroup,
        help="Train a VAE, export its encoder and decoder, and prove that the files compute what PyTorch computed.",
        add_completion=completion,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback(invoke_without_command=True)(_options)
    known = {_command_name(command): command for command in (*commands, *LIBRARY_COMMANDS)}
    for chosen in [known[name]] if name in known else known.values():
        command = pkgutil.resolve_name(chosen) if isinstance(chosen, str) else chosen
        # A command that only says where to find it takes any arguments.
        lenient = {"ignore_unknown_options": True} if command.__module__ == __name__ else {}
        app.command(cls=Command, context_settings=lenient)(command)
    return app


def _command_name(command: Function | str) -> str:
    return command.rpartition(":")[2] if isinstance(command, str) else command.__name__


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
