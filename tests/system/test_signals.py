"""A signal that comes at a bad moment waits; a second one does not."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from tests.commands import run_python
from tests.conftest import Exported
from vae_export.system.signals import deferred_signals


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_signal_waits_for_the_end_of_the_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), deferred_signals():
        os.kill(os.getpid(), signal.SIGINT)
        done.append("finished")
    assert done == ["finished"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_a_signal_nothing_happens() -> None:
    with deferred_signals():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with deferred_signals():
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_error_in_the_block_is_raised_and_handlers_restored() -> None:
    with pytest.raises(ValueError, match="of the block"), deferred_signals():
        raise ValueError("of the block")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_are_left_alone() -> None:
    inside = []

    def work() -> None:
        with deferred_signals():
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [signal.default_int_handler]


@pytest.mark.slow
def test_second_signal_ends_the_process_at_once() -> None:
    code = """
import os, signal
from vae_export.system.signals import deferred_signals
with deferred_signals():
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
    print("still here")
"""
    result = run_python(code)
    assert (result.returncode, result.stdout) == (130, "")


@pytest.mark.slow
def test_signal_handler_works_after_openvino_unloads(mlp: Exported) -> None:
    """With Python's own signal stack, that of `faulthandler`, in place, as in a test runner or a debugger."""
    code = """
import faulthandler, os, signal, sys
faulthandler.enable()
from vae_export.artifact.folder import open_artifact, read_content
from vae_export.formats import FORMATS
from vae_export.session_options import SessionOptions
artifact = open_artifact(sys.argv[1])
entry = artifact.entry("decoder", "openvino")
content, spec = read_content(artifact, entry), artifact.manifest.contract.spec("decoder")
runners = [FORMATS["openvino"].open(content, spec, SessionOptions("CPU", threads=1)) for _ in range(2)]
while runners:
    del runners[0]
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""
    result = run_python(code, mlp.folder)
    assert (result.returncode, result.stdout) == (0, "handled\n"), result.stderr
