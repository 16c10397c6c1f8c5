"""A server whose self-test and batches take as long as a test wants.

    python scripted.py BUNDLE [fail]

Its self-test waits for a line on standard input; with "fail" it then fails. Its batches wait for another line.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from vae_export.errors import ParityError, VaeExportError
from vae_export.runtime import open_package
from vae_export.serving.batching import BatchOptions
from vae_export.serving.engines import OpenedBundle, ThreadEngine
from vae_export.serving.models import ServedBundle
from vae_export.serving.server import Listening, ServerOptions, run_server


class Scripted(ThreadEngine):
    def start(self) -> None:
        sys.stdin.readline()
        if "fail" in sys.argv:
            raise ParityError("self-test failed", where="decoder")
        super().start()

    async def run(self, model: Any, inputs: Any) -> Any:
        loop, line = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(sys.stdin, line.set)  # the line is never read: all batches see it
        await line.wait()
        return await super().run(model, inputs)


def say(listening: Listening) -> None:
    sys.stdout.write(json.dumps({"http": listening.http, "grpc": listening.grpc}, indent=1) + "\n")
    sys.stdout.flush()


served = ServedBundle("small", 1, Path(sys.argv[1]))
bundles = [OpenedBundle.open(served, open_package(served.path))]
options = ServerOptions(http_port=0, grpc_port=0, batching=BatchOptions(max_rows=8), drain_seconds=20)
try:
    number = run_server(bundles, Scripted(bundles, 1), options, say, lambda: None)
except VaeExportError as error:
    sys.stderr.write(f"{error}\n")
    sys.stderr.flush()
    os._exit(error.exit_code)
sys.stderr.write(f"ended by {number}\n")
sys.stderr.flush()
os._exit(0)
