"""The command line: parse, one call, print. One file a command; errors are caught once, in `app.py`.

Nothing is imported here but the way in: whoever presses Ctrl-C while the rest is imported sees one line.
"""

from vae_export.cli.start import start
from vae_export.system.signals import exit_on_interrupt

__all__ = ["exit_on_interrupt", "start"]
