"""Give thousands of mutated ONNX files to `verify --file` and `inspect`: no traceback, little memory and time.

    python benchmarks/mutated_onnx.py
    python benchmarks/mutated_onnx.py --count 10000 --commands 20
    python benchmarks/mutated_onnx.py --seed 1                                  other files

`verify --file` opens a file in a child process first. Here a child is forked for each file, from a process that has the
imports behind it; it runs the same code under the same limits. Some of the files are then given to the command itself.
Exits 1 if a child ends without a report, needs more than 2 GB or 60 seconds, or if a command ends in a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper

from vae_export import Checkpoint, export, save_checkpoint
from vae_export.bundles import open_bundle
from vae_export.contract import Contract, Part
from vae_export.errors import IntegrityError, VaeExportError
from vae_export.models import VAE, VAEConfig
from vae_export.parity.plan import QUICK_BATCHES
from vae_export.sandbox import untrusted_child
from vae_export.sandbox.untrusted import SECONDS

ROOT = Path(__file__).parent.parent
PART: Part = "decoder"
_MAX_SECONDS, _MAX_BYTES = 60.0, 2 << 30
#: A child that is stopped at the limit of time may take a moment more to end.
_SLACK_SECONDS = 2.0
_OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain})
_NUMBERS = (-(2**63), -1, 0, 1, 2, 3, 64, 2**16, 2**31 - 1, 2**31, 2**40, 2**63 - 1)
_TEXTS = ("", "latent", "image", "x", "../weights", "/etc/passwd", "a\nb", "\x1b[2J", "\u202egpj", "y" * 10_000)
_FLOATS = (0.0, -1.0, 1e30, float("inf"), float("nan"))

Mutation = Callable[[bytes, random.Random], bytes]


def bytes_changed(data: bytes, rng: random.Random) -> bytes:
    """Bytes are replaced, removed, repeated or moved, most often near the start, where the graph is."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        at = rng.randrange(min(len(changed), rng.choice([200, 4_000, len(changed)])) or 1) if changed else 0
        match rng.randrange(4):
            case 0:
                changed[at : at + 1] = bytes([rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])])
            case 1:
                del changed[at : at + rng.choice([1, 2, 16, 1_000])]
            case 2:
                changed[at:at] = changed[at : at + rng.choice([1, 16, 500])]
            case 3:
                changed[at:at] = rng.choice([b"\xff" * 10, b"\x0a\xff\xff\xff\x7f", rng.randbytes(8)])
    return bytes(changed)


def cut_off(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def no_model(_data: bytes, rng: random.Random) -> bytes:
    return rng.choice(
        [b"", b"\x00", rng.randbytes(rng.randrange(1, 3_000)), b"\x3a" * 10_000, b"PK\x03\x04" + bytes(90)]
    )


def _of_model(change: Callable[[onnx.ModelProto, random.Random], None]) -> Mutation:
    def mutate(data: bytes, rng: random.Random) -> bytes:
        model = onnx.load_model_from_string(data)
        for _ in range(rng.choice([1, 1, 2, 4])):
            change(model, rng)
        return bytes(model.SerializeToString())

    mutate.__name__ = change.__name__
    return mutate


def node_changed(model: onnx.ModelProto, rng: random.Random) -> None:
    nodes = model.graph.node
    if not nodes:
        return
    node = rng.choice(nodes)
    match rng.randrange(7):
        case 0:
            node.op_type = rng.choice(_OPERATORS)
        case 1:
            nodes.remove(node)
        case 2:
            nodes.append(node)
        case 3 if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(
                [*_TEXTS, *(other.output[0] for other in nodes if other.output)]
            )
        case 4 if node.output:
            node.output[0] = rng.choice([*_TEXTS, "again"])
        case 5:
            node.domain = rng.choice(["com.microsoft", "ai.onnx.ml", "stranger", "\x1b[2J"])
        case _:
            node.name = rng.choice(_TEXTS)


def attribute_changed(model: onnx.ModelProto, rng: random.Random) -> None:
    node = rng.choice(model.graph.node)
    names = [attribute.name for attribute in node.attribute] or ["axis"]
    name = rng.choice([*names, "axis", "to", "shape", "perm", "value"])
    for attribute in [attribute for attribute in node.attribute if attribute.name == name]:
        node.attribute.remove(attribute)
    value = rng.choice(
        [rng.choice(_NUMBERS), [rng.choice(_NUMBERS) for _ in range(4)], rng.choice(_FLOATS), rng.choice(_TEXTS)]
    )
    node.attribute.append(
        helper.make_attribute(name, value, attr_type=None if value != [] else onnx.AttributeProto.INTS)
    )


def weight_changed(model: onnx.ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    match rng.randrange(6):
        case 0:
            del tensor.dims[:]
            tensor.dims.extend(rng.choice(_NUMBERS) for _ in range(rng.randrange(5)))
        case 1:
            tensor.data_type = rng.randrange(30)
        case 2:
            tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
        case 3:
            tensor.raw_data = rng.randbytes(len(tensor.raw_data))
        case 4:
            tensor.data_location = TensorProto.EXTERNAL
            entry = tensor.external_data.add()
            entry.key, entry.value = "location", rng.choice(["/etc/passwd", "../x", "weights.bin", "\x1b[2J"])
        case 5:
            tensor.name = rng.choice(_TEXTS)


def shape_changed(model: onnx.ModelProto, rng: random.Random) -> None:
    value = rng.choice([*model.graph.input, *model.graph.output, *model.graph.value_info])
    kind = value.type.tensor_type
    match rng.randrange(4):
        case 0 if kind.shape.dim:
            rng.choice(kind.shape.dim).dim_value = rng.choice(_NUMBERS)
        case 1:
            kind.elem_type = rng.randrange(30)
        case 2 if kind.shape.dim:
            rng.choice(kind.shape.dim).dim_param = rng.choice(_TEXTS)
        case _:
            value.name = rng.choice(_TEXTS)


def version_changed(model: onnx.ModelProto, rng: random.Random) -> None:
    match rng.randrange(4):
        case 0:
            model.ir_version = rng.choice(_NUMBERS)
        case 1:
            model.opset_import[0].version = rng.choice(_NUMBERS)
        case 2:
            model.opset_import.append(helper.make_opsetid(rng.choice(_TEXTS), rng.choice([1, 18])))
        case 3:
            entry = model.metadata_props.add()
            entry.key, entry.value = rng.choice(_TEXTS), rng.choice(_TEXTS)


def bomb(model: onnx.ModelProto, rng: random.Random) -> None:
    """A small graph that asks for much memory: a constant, a tensor that is repeated, nested branches."""
    graph = model.graph
    name = graph.input[0].name
    match rng.randrange(3):
        case 0:
            size = rng.choice([2**28, 2**33, 2**40, 2**62])
            shape = helper.make_tensor("size", TensorProto.INT64, [1], [size])
            graph.initializer.append(shape)
            graph.node.insert(0, helper.make_node("ConstantOfShape", ["size"], ["constant"]))
        case 1:
            graph.initializer.append(
                helper.make_tensor("times", TensorProto.INT64, [2], [1, rng.choice([2**20, 2**31])])
            )
            graph.node.insert(0, helper.make_node("Tile", [name, "times"], ["tiled"]))
        case 2:  # branches within branches; protobuf itself reads a hundred levels of messages
            inner = helper.make_graph([], "inner", [], [])
            for _ in range(rng.choice([5, 20, 30])):
                branch = helper.make_node(
                    "If", [name], ["z"], then_branch=inner, else_branch=helper.make_graph([], "e", [], [])
                )
                inner = helper.make_graph([branch], "inner", [], [])
            graph.node.extend(inner.node)


MUTATIONS: tuple[Mutation, ...] = (
    bytes_changed,
    cut_off,
    no_model,
    *map(_of_model, (node_changed, attribute_changed, weight_changed, shape_changed, version_changed, bomb)),
)


@dataclass(frozen=True)
class Trial:
    """How a forked child ended.

    Attributes:
        fault: what is wrong with that; None if it accepted the file or reported why it did not.
        accepted: whether it accepted the file.
    crash: the signal that ended it; 0 without one. `verify` reports it in one line, which is what the child is for.
        seconds: wall time.
        peak: largest memory in bytes, with that of the interpreter and its imports.
    """

    fault: str | None
    accepted: bool
    crash: int
    seconds: float
    peak: int


def main() -> int:
    parser = argparse.ArgumentParser(description="Count mutated ONNX files that do harm.")
    parser.add_argument("--count", type=int, default=1_000, help="number of files (default: 1,000)")
    parser.add_argument("--commands", type=int, default=4, help="files for the command itself (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations (default: 0)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return _measure(Path(folder), options.count, options.commands, options.seed)


def _measure(folder: Path, count: int, commands: int, seed: int) -> int:
    torch.manual_seed(0)
    config = VAEConfig("mlp", (1, 28, 28), 4, 16)
    images = torch.randint(0, 256, (8, 1, 28, 28), dtype=torch.uint8)
    checkpoint = Checkpoint(config, VAE(config).state_dict(), images, {})
    save_checkpoint(checkpoint, folder / "checkpoint.safetensors")
    artifact, _ = export(checkpoint, folder / "export", formats=["onnx"], parts=[PART])
    good, contract = artifact.read(artifact.entry(PART)), artifact.manifest.contract
    assert _trial(good, contract, folder).accepted, "the file is accepted before it is changed"  # noqa: S101
    faults, crashes, longest, peak, chosen = Counter[str](), Counter[str](), 0.0, 0, list[bytes]()
    for number, mutate in enumerate(MUTATIONS):
        rng = random.Random(f"{mutate.__name__}{seed or ''}")  # noqa: S311 - repeatable, no secret
        share = (count + number) // len(MUTATIONS)
        accepted, slowest = 0, 0.0
        for index in range(share):
            data = mutate(good, rng)
            trial = _trial(data, contract, folder)
            for fault in (trial.fault, _inspect(data, folder / "stranger.onnx")):
                if fault is not None:
                    faults[f"{mutate.__name__}: {fault}"] += 1
            if trial.crash:
                crashes[signal.Signals(trial.crash).name] += 1
            accepted, slowest, peak = accepted + trial.accepted, max(slowest, trial.seconds), max(peak, trial.peak)
            if trial.accepted or index == 0:
                chosen.append(data)
        print(f"{mutate.__name__:20}{accepted:6,} of {share:6,} can be compared, {slowest:5.2f} s at most", flush=True)
        longest = max(longest, slowest)
    ended = Counter(_command(data, folder) for data in random.Random(seed).sample(chosen, min(commands, len(chosen))))  # noqa: S311
    total = sum((count + number) // len(MUTATIONS) for number in range(len(MUTATIONS)))
    print(f"\n{len(MUTATIONS)} kinds, {total:,} mutated files, {sum(faults.values())} that did harm")
    print(f"longest {longest:.2f} s; peak of a child's memory {peak / 1e6:,.0f} MB")
    print("children ended by a signal: " + (", ".join(f"{name} {times}" for name, times in crashes.items()) or "none"))
    print("verify --file ended with " + ", ".join(f"{what}: {times}" for what, times in sorted(ended.items())))
    for fault, times in faults.items():
        print(f"{times:6}  {fault}")
    is_harmed = bool(faults) or any(what.startswith("harm") for what in ended)
    return 1 if is_harmed or longest > _MAX_SECONDS + _SLACK_SECONDS or peak > _MAX_BYTES else 0


def _trial(data: bytes, contract: Contract, folder: Path) -> Trial:
    """Let a forked child do with the file what the child of `verify --file` does."""
    given, said, complaints = (folder / name for name in ("given", "said", "complaints"))
    given.write_bytes(data)
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        try:
            for number, (path, flags) in enumerate(
                [(given, os.O_RDONLY), *((path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for path in (said, complaints))]
            ):
                os.dup2(os.open(path, flags, 0o600), number)
            sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
            code = untrusted_child._main(json.dumps(contract.to_json()), PART, str(max(QUICK_BATCHES)))
            sys.stdout.flush()
        except BaseException:
            code = 99
        os._exit(code)
    status, usage = _wait(child, started + SECONDS)
    seconds = time.perf_counter() - started
    crash = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    fault = None if crash or status == 0 else _report_fault(said.read_bytes())
    return Trial(fault, status == 0, crash, seconds, usage)


def _wait(child: int, deadline: float) -> tuple[int, int]:
    """Return the status of a child and its largest memory in bytes; kill it at the deadline, as the parent does."""
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            return status, usage.ru_maxrss * 1024
        if time.perf_counter() > deadline:
            os.kill(child, signal.SIGKILL)
            deadline += SECONDS
        time.sleep(0.002)


def _report_fault(report: bytes) -> str | None:
    """Return what is wrong with the report of a child that refused its file, or None."""
    try:
        return None if json.loads(report)["what"] else "an empty report"
    except (ValueError, LookupError, TypeError):
        return f"no report: {report[:80]!r}"


def _inspect(data: bytes, path: Path) -> str | None:
    """Return what is wrong with how `inspect` treats the file, which is no bundle, or None."""
    path.write_bytes(data)
    try:
        open_bundle(path)
    except IntegrityError:
        return None
    except VaeExportError as error:
        return f"inspect: {error}"
    except Exception as error:  # a bug, which is counted
        return f"inspect: {type(error).__name__}: {error}"
    return "inspect: accepted"


def _command(data: bytes, folder: Path) -> str:
    """Run `verify --file` on the file; return its exit code, or the harm that it did."""
    (folder / "stranger.onnx").write_bytes(data)
    command = [sys.executable, "cli.py", "verify", "--checkpoint", str(folder / "checkpoint.safetensors")]
    command += ["--file", str(folder / "stranger.onnx"), "--part", PART, "--quick", "--force"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3, 5) or "Traceback" in done.stderr or "\x1b" in done.stdout + done.stderr:
        return f"harm {done.returncode} {done.stderr[-200:]}"
    return f"exit {done.returncode}"


if __name__ == "__main__":
    sys.exit(main())
