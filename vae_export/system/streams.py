"""Standard streams: a private handle for answers, and silence for libraries that print about their own code."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import IO


def private_stdout() -> IO[str]:
    """Return a handle to stdout for answers to the parent, and send to stderr whatever else is printed from now on."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Suppress warnings, log records and whatever Python code prints within the block."""
    output, handle = io.StringIO(), logging.Logger.handle
    # logging.disable() would clear the caches of all loggers each time, of which PyTorch and ONNX have thousands.
    logging.Logger.handle = _drop_record  # type: ignore[method-assign, assignment]
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.Logger.handle = handle  # type: ignore[method-assign]


@contextlib.contextmanager
def silenced_descriptors(*descriptors: int) -> Iterator[None]:
    """Suppress what other code than Python's, such as an engine, prints within the block.

    Args:
        descriptors: 1 for the process's stdout, 2 for its stderr; both where none is given.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.ExitStack() as stack, open(os.devnull, "wb") as null:
        for descriptor in descriptors or (1, 2):
            with contextlib.suppress(OSError):  # closed, as in a process without a terminal
                before = os.dup(descriptor)
                stack.callback(os.close, before)
                stack.callback(os.dup2, before, descriptor)
                os.dup2(null.fileno(), descriptor)
        yield


def _drop_record(_logger: logging.Logger, _record: logging.LogRecord) -> None:
    """Handle a log record by ignoring it."""
