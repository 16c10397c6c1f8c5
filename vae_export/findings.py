"""What reading a file shows before it is run: a finding names the rule, how bad it is, and where."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

#: An error fails the certificate; a warning is written down in it.
Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """Attributes:
    rule: its name, such as "random-operator".
    severity: error or warning.
    where: the file, and the node or tensor in it.
    detail: what was found.
    """

    rule: str
    severity: Severity
    where: str
    detail: str

    def line(self) -> str:
        return f"{self.severity}: {self.rule}: {self.where}; {self.detail}"


#: An absolute path of Linux, macOS or Windows, or a line of a Python traceback. Names that no model has by chance.
_TRACES = (
    re.compile(rb'File \\?"[^"]{1,200}", line \d+'),
    re.compile(rb"(?<![\w.])/(?:home|root|Users|usr|opt|tmp|var|mnt|work|srv|data)/[\w.\-]{2,}/[\w.\-/]{2,}"),
    re.compile(rb"[A-Za-z]:\\\\?(?:Users|Windows|Program Files)\\\\?[\w.\- ]{2,}"),
    re.compile(rb"site-packages/[\w./\-]{2,}"),
)


def machine_traces(text: bytes, where: str) -> Iterator[Finding]:
    """Paths and source lines of the machine that wrote `text`: they tell strangers about it, and change the bytes."""
    for pattern in _TRACES:
        if (match := pattern.search(text)) is not None:
            yield Finding("machine-trace", "error", where, match.group().decode("utf-8", "replace"))
