"""What tests of the command line say of it again and again."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.conftest import Outcome

Invoke = Callable[..., Outcome]
COMMANDS = ("train", "evaluate", "export", "verify", "tune", "sample", "decode", "encode", "reconstruct", "doctor")
ONE_LINE = re.compile(r"vae-export: error: .+\n")
