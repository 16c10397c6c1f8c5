"""The command line: parse, one call, print. One file a command; errors are caught once, in `main`."""

from vae_export.cli.app import main, run, start

__all__ = ["main", "run", "start"]
