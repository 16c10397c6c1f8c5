"""The child process of `vae_export.sandbox.untrusted`: parse, check and run an ONNX file with little memory.

    python -m vae_export.sandbox.untrusted_child CONTRACT PART BATCH < file.onnx

The file must be a plain graph of known operators with its weights inside. Exit code 0 means that everything that parity
does with a file has worked once. Otherwise stdout has a JSON object (`what`, `where`, `expected`, `got`), or a signal
has ended the process. The parent imports this module for its name only: onnx is imported where a file is read.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from typing import TYPE_CHECKING

import numpy as np

from vae_export.contract import Array, Contract, Part, PartSpec
from vae_export.errors import ModelError, VaeExportError
from vae_export.formats.onnx_lint import DOMAINS, constants, every_graph, external_location, weights
from vae_export.session_options import SessionOptions

if TYPE_CHECKING:
    import onnx

#: The oldest operator set that ONNX Runtime reads.
_OLDEST_OPSET = 7


def check(data: bytes) -> None:
    """Raise `ModelError` unless the file is a plain graph of known operators, with its weights inside."""
    import onnx

    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf raises classes of its own
        raise ModelError("not an ONNX file", got=type(error).__name__) from error
    opset = _checked_versions(model)
    for graph in every_graph(model.graph):
        _check_graph(graph, opset)


def _checked_versions(model: onnx.ModelProto) -> int:
    """Check IR version and operator set; return the operator set."""
    import onnx

    newest, newest_ir = onnx.defs.onnx_opset_version(), onnx.IR_VERSION
    if not 1 <= model.ir_version <= newest_ir:
        raise ModelError("IR version not known", expected=f"1 to {newest_ir}", got=model.ir_version)
    for entry in model.opset_import:
        if entry.domain not in DOMAINS:
            raise ModelError("operators of an unknown domain", expected="ai.onnx", got=entry.domain)
        if not _OLDEST_OPSET <= entry.version <= newest:
            raise ModelError("opset not known", expected=f"{_OLDEST_OPSET} to {newest}", got=entry.version)
    # With two sets of one domain, an engine might use another one than was checked.
    if len(model.opset_import) != 1:
        raise ModelError("not one operator set", expected="ai.onnx once", got=len(model.opset_import))
    if model.functions or model.training_info:
        got = "functions of its own" if model.functions else "training information"
        raise ModelError("file has more than a graph", expected="a plain graph of ai.onnx operators", got=got)
    return int(model.opset_import[0].version)


def _check_graph(graph: onnx.GraphProto, opset: int) -> None:
    import onnx

    tensors = [tensor for _, tensor in weights(graph)]
    for node in graph.node:
        if node.domain not in DOMAINS or not onnx.defs.has(node.op_type, opset):
            got = f"{node.domain or 'ai.onnx'} {node.op_type}"
            raise ModelError("unknown operator", where=f"node '{node.name}'", got=got)
        tensors += constants(node)
    for tensor in tensors:
        if (location := external_location(tensor)) is not None:
            raise ModelError("weights outside the file", where=f"tensor '{tensor.name}'", got=location)


#: Memory limit in bytes, beyond what the interpreter uses: a constant, a multiple of the file's size, and a multiple of
#: a batch's inputs and outputs, since activations between them are some ten times as large.
_BASE_MEMORY, _MEMORY_PER_FILE_BYTE, _MEMORY_PER_BATCH_BYTE = 1 << 30, 8, 64
#: Processor time in seconds: a child whose parent was killed ends by itself.
_CPU_SECONDS = 120


def run(data: bytes, contract: Contract, part: Part, batch: int) -> None:
    """Check, lint, open and run a file under a memory limit; raise whatever is wrong with it.

    Args:
        data: the bytes of the file.
        contract, part: names, dtypes and shapes that its inputs and outputs must have.
        batch: the number of rows to run.
    """
    # Imported before the limit is set, which is for the file alone.
    import onnx  # noqa: F401 -- `check` uses it

    from vae_export.formats.onnx_lint import lint
    from vae_export.runtime.session import Session

    spec, sized = contract.spec(part), contract.at().spec(part)
    batch = min(batch, contract.max_batch or batch)
    _limit_memory(_BASE_MEMORY + _MEMORY_PER_FILE_BYTE * len(data) + _MEMORY_PER_BATCH_BYTE * _bytes(sized, batch))
    check(data)
    # The verifier reports the findings; here it only matters that the lint ends.
    list(lint(data, part, opset=None))
    # Both extreme optimisation levels, with zeros and with values as large as in parity's usual probes.
    for optimisation in ("disabled", "all"):
        session = Session(data, spec, SessionOptions(threads=1, optimisation=optimisation))
        for spread in (0.0, 6.0):
            # Outputs are for parity to judge: a NaN is no danger.
            with contextlib.suppress(ModelError):
                session.run(_inputs(sized, batch, spread))


def _inputs(spec: PartSpec, batch: int, spread: float) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    drawn = ((tensor, rng.uniform(-spread, spread, (batch, *tensor.fixed_item))) for tensor in spec.inputs)
    return {tensor.name: np.clip(array, tensor.low, tensor.high).astype(tensor.dtype) for tensor, array in drawn}


def _bytes(spec: PartSpec, batch: int) -> int:
    return 4 * batch * sum(math.prod(tensor.fixed_item) for tensor in (*spec.inputs, *spec.outputs))


def _limit_memory(spare: int) -> None:
    """Limit this process to `spare` more bytes, where the system has such a limit."""
    with contextlib.suppress(ImportError):
        import resource
        from pathlib import Path

        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0]) if Path("/proc/self/statm").exists() else 0
        memory = pages * resource.getpagesize() + spare
        # One by one: if a lower limit holds already, setting this one fails, and the others must still be set.
        limits = {resource.RLIMIT_AS: memory, resource.RLIMIT_CORE: 0, resource.RLIMIT_CPU: _CPU_SECONDS}
        for kind, limit in limits.items():
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(kind, (limit, limit))


def _main(contract: str, part: Part, batch: str) -> int:
    try:
        run(sys.stdin.buffer.read(), Contract.from_json(json.loads(contract)), part, int(batch))
    except VaeExportError as error:
        return _refuse(error.what, error.where, error.expected, error.got)
    except MemoryError as error:
        return _refuse("trial run needs too much memory", got=error)
    except Exception as error:  # whatever it is, the file has caused it
        return _refuse("trial run failed", got=f"{type(error).__name__}: {error}")
    return 0


def _refuse(what: str, where: object = None, expected: object = None, got: object = None) -> int:
    parts = {"what": what, "where": where, "expected": expected, "got": got}
    text = {name: None if value is None else " ".join(str(value).split()) or None for name, value in parts.items()}
    sys.stdout.write(json.dumps(text))
    return 1


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], sys.argv[2], sys.argv[3]))  # type: ignore[arg-type]  # `untrusted` wrote it
