"""`.pt2`, the program of torch.export. Newer versions may not load it, its documentation says: no archive format."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from vae_export.contract import PartSpec
from vae_export.extras import missing
from vae_export.formats.base import Runner, WriteOptions
from vae_export.formats.torch_runner import check_device, torch_devices, torch_runner

if TYPE_CHECKING:
    from vae_export.graphs import Graph


class Pt2:
    name = "pt2"
    suffix = ".pt2"
    extra = "export"
    summary = "torch.export's program, for PyTorch of the same version and for AOTInductor"

    def unavailable(self) -> str | None:
        error = missing(self.extra, "torch")
        return None if error is None else error.line()

    def write(self, graph: Graph, options: WriteOptions) -> bytes:
        import torch

        program = graph.program
        # The inputs it was captured with would travel as a pickle; nobody needs them.
        program._example_inputs = None
        buffer = io.BytesIO()
        # To memory: saving to a path aborts the process on a full disk (pytorch#156955).
        torch.export.save(program, buffer, extra_files=dict(options.metadata))
        return buffer.getvalue()

    def providers(self) -> tuple[str, ...]:
        return torch_devices() if self.unavailable() is None else ()

    def open(self, data: bytes, spec: PartSpec, provider: str) -> Runner:
        import torch
        from torch.export.passes import move_to_device_pass

        check_device(provider)
        program = torch.export.load(io.BytesIO(data))
        if provider != "cpu":
            program = move_to_device_pass(program, provider)
        return torch_runner(program.module(), spec, provider)
