"""What an ONNX file of unknown origin may hold: a plain graph of known operators, and its weights inside it.

Runs in the child process of a trial: parsing a stranger's bytes is the first thing that can go wrong.

Parses, checks, opens and runs an ONNX file from standard input, in a process of its own with little memory.

    python -m vae_export.sandbox.untrusted_child CONTRACT PART BATCH < file.onnx

Exit code 0: everything that parity does with such a file, done once, ended well. Otherwise a JSON object on stdout
(`what`, `where`, `expected`, `got`), or a signal that ended it.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys

import numpy as np
import onnx

from vae_export.contract import Array, Contract, Part, PartSpec
from vae_export.errors import ModelError, VaeExportError
from vae_export.formats.onnx_lint import DOMAINS, constants, every_graph, external_location, weights
from vae_export.session_options import SessionOptions

MIN_OPSET = 7  # ONNX Runtime reads no older one


def check(data: bytes) -> None:
    """Raise `ModelError` unless these bytes are such a file."""
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own kinds
        raise ModelError("not an ONNX file", got=type(error).__name__) from error
    opset = _checked_versions(model)
    for graph in every_graph(model.graph):
        _check_graph(graph, opset)


def _checked_versions(model: onnx.ModelProto) -> int:
    """The one operator set that the file uses."""
    newest, newest_ir = onnx.defs.onnx_opset_version(), onnx.IR_VERSION
    if not 1 <= model.ir_version <= newest_ir:
        raise ModelError("IR version not known", expected=f"1 to {newest_ir}", got=model.ir_version)
    for entry in model.opset_import:
        if entry.domain not in DOMAINS:
            raise ModelError("operators of an unknown domain", expected="ai.onnx", got=entry.domain)
        if not MIN_OPSET <= entry.version <= newest:
            raise ModelError("opset not known", expected=f"{MIN_OPSET} to {newest}", got=entry.version)
    # Two sets of one domain: which of them an engine takes is its own affair, and need not be the one that was checked.
    if len(model.opset_import) != 1:
        raise ModelError("not one operator set", expected="ai.onnx once", got=len(model.opset_import))
    if model.functions or model.training_info:
        got = "functions of its own" if model.functions else "training information"
        raise ModelError("more than a graph", expected="a plain graph of ai.onnx operators", got=got)
    return int(model.opset_import[0].version)


def _check_graph(graph: onnx.GraphProto, opset: int) -> None:
    tensors = [tensor for _, tensor in weights(graph)]
    for node in graph.node:
        if node.domain not in DOMAINS or not onnx.defs.has(node.op_type, opset):
            got = f"{node.domain or 'ai.onnx'} {node.op_type}"
            raise ModelError("unknown operator", where=f"node '{node.name}'", got=got)
        tensors += constants(node)
    for tensor in tensors:
        if (location := external_location(tensor)) is not None:
            raise ModelError("weights outside the file", where=f"tensor '{tensor.name}'", got=location)


#: What a trial may need beyond what the interpreter holds already, in bytes, and how many times the file's size.
_SPARE, _TIMES_FILE = 1 << 30, 8
#: Of the bytes of one batch's inputs and outputs: what lies between them is some ten times as large.
_TIMES_BATCH = 64
#: Seconds of processor time: a trial whose parent is killed ends by itself.
_SECONDS = 120


def run(data: bytes, contract: Contract, part: Part, batch: int) -> None:
    """Read, open and run; whatever is wrong is raised."""
    # Before the limit: what these imports take is no part of what a file may need.
    from vae_export.formats.onnx_lint import lint
    from vae_export.runtime.session import Session

    spec = contract.spec(part)
    _limit(_SPARE + _TIMES_FILE * len(data) + _TIMES_BATCH * _bytes(spec, batch))
    check(data)
    # Its findings are the verifier's; here only that reading them ends.
    list(lint(data, part, opset=None))
    # The extreme levels, with zeros and with numbers as large as parity's usual ones.
    for optimisation in ("disabled", "all"):
        session = Session(data, spec, SessionOptions(threads=1, optimisation=optimisation))
        for spread in (0.0, 6.0):
            # What it computes is for parity to judge, with all figures: an output that is NaN is no danger.
            with contextlib.suppress(ModelError):
                session.run(_inputs(spec, batch, spread))


def _inputs(spec: PartSpec, batch: int, spread: float) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    drawn = ((tensor, rng.uniform(-spread, spread, (batch, *tensor.item))) for tensor in spec.inputs)
    return {tensor.name: np.clip(array, tensor.low, tensor.high).astype(np.float32) for tensor, array in drawn}


def _bytes(spec: PartSpec, batch: int) -> int:
    return 4 * batch * sum(math.prod(tensor.item) for tensor in (*spec.inputs, *spec.outputs))


def _limit(spare: int) -> None:
    """Let this process grow by `spare` bytes and no more. Where the system knows no such limit, the caps must do."""
    with contextlib.suppress(ImportError):
        import resource
        from pathlib import Path

        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0]) if Path("/proc/self/statm").exists() else 0
        memory = pages * resource.getpagesize() + spare
        # Each on its own: a limit that is refused, because a lower one holds already, must not keep the others away.
        for kind, limit in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_CPU, _SECONDS)):
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(kind, (limit, limit))


def _main(contract: str, part: Part, batch: str) -> int:
    try:
        run(sys.stdin.buffer.read(), Contract.from_json(json.loads(contract)), part, int(batch))
    except VaeExportError as error:
        return _refuse(error.what, error.where, error.expected, error.got)
    except MemoryError as error:
        return _refuse("trial run needs too much memory", got=error)
    except Exception as error:  # whatever it is, it is the file's doing
        return _refuse("trial run failed", got=f"{type(error).__name__}: {error}")
    return 0


def _refuse(what: str, where: object = None, expected: object = None, got: object = None) -> int:
    parts = {"what": what, "where": where, "expected": expected, "got": got}
    text = {name: None if value is None else " ".join(str(value).split()) or None for name, value in parts.items()}
    sys.stdout.write(json.dumps(text))
    return 1


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], sys.argv[2], sys.argv[3]))  # type: ignore[arg-type]  # `gate` wrote it
