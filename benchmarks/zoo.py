"""Export a zoo of VAEs through the command line, beside `torch.onnx.export` alone: seconds, memory, verdict.

    python benchmarks/zoo.py                           every model: diffusers, pythae, modules of people's own code
    python benchmarks/zoo.py --only AutoencoderDC      those whose name has this text; repeatable
    python benchmarks/zoo.py --group pythae            those of one group: diffusers, pythae, modules, families, cases
    python benchmarks/zoo.py --cases FILE              also the modules of a file with a mapping CASES, see `_cases`
    python benchmarks/zoo.py --large                   also the autoencoder of Stable Diffusion 1.x: gigabytes, minutes

    python benchmarks/zoo.py --warm                    in processes that have imported everything: seconds without it

Each model is exported by a process of its own, twice: by `vae-export export` to a verified folder, and by
`torch.onnx.export` with a dynamic batch, where "right" means that ONNX Runtime agrees with PyTorch to 1e-4 of the
largest value at batches 1 and 3. "any" are the axes that the verified files leave free: the batch N and the sizes.
Memory is the peak of the process. Exits 1 if a verdict is not the expected one. A refusal must be one line and leave
nothing behind; a traceback never is as expected.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT)]
#: Exit codes of `vae-export export` by what they say: published with a passed certificate, or refused.
VERDICTS = {0: "pass", 2: "refused", 3: "refused", 5: "refused"}
PLAIN_TOLERANCE = 1e-4
#: Files with functions that return models, by their group.
FUNCTIONS = {"modules": HERE / "zoo_modules.py", "families": HERE / "zoo_families.py"}


@dataclass(frozen=True)
class Entry:
    """One model.

    Attributes:
        group: "diffusers", "pythae", "modules", "families" or "cases".
        name: what the table calls it.
        expected: "pass" or "refused".
        out: the folder that our command writes.
        ours, plain: the two commands; no plain command where there is nothing to give torch.onnx.export.
    """

    group: str
    name: str
    expected: str
    out: Path
    ours: list[str]
    plain: list[str] | None


@dataclass(frozen=True)
class Outcome:
    """What became of one model in one process.

    Attributes:
        verdict: "pass" or "refused" of ours; "right", "wrong" or "fails" of torch.onnx.export, for each part.
        seconds: of the whole process.
        gigabytes: its peak memory.
        message: its last line.
    """

    verdict: str
    seconds: float
    gigabytes: float
    message: str


def main() -> None:
    arguments = _arguments()
    if arguments.warm:
        _import_everything()
    if arguments.case is not None:
        _export_case(*arguments.case)
        return
    if arguments.plain is not None:
        _export_plainly(*arguments.plain)
        return
    failed, refusals = [], []
    plain = "" if arguments.skip_plain else f" torch.onnx.export alone | {'s':>5} | {'GB':>4} |"
    print(f"| {'model':34} | verdict | any       | {'s':>5} | {'GB':>4} |{plain}")
    print(f"|{'-' * 36}|---|---|---|---|{'' if arguments.skip_plain else '---|---|---|'}")
    with tempfile.TemporaryDirectory() as scratch:
        for entry in _entries(arguments, Path(scratch)):
            found = _run(entry.ours, VERDICTS, arguments)
            verdict = found.verdict
            if verdict == "refused" and entry.out.exists():
                verdict = "refused, and left files"
            as_expected = verdict == entry.expected
            row = (
                f"| {entry.name:34} | {verdict:7}{'' if as_expected else f', {entry.expected} expected'} "
                f"| {_free_axes(entry.out):9} | {found.seconds:5.1f} | {found.gigabytes:4.1f} |"
            )
            if not arguments.skip_plain:
                alone = _run(entry.plain, {}, arguments) if entry.plain else Outcome("", 0, 0, "")
                row += f" {alone.verdict:23} | {alone.seconds:5.1f} | {alone.gigabytes:4.1f} |"
            print(row, flush=True)
            if not as_expected:
                failed.append(f"{entry.name}: {found.message}")
            elif verdict != "pass":
                refusals.append(f"{entry.name}: {found.message}")
    print("\nrefused as expected:", *refusals, "\nnot as expected:", *failed, sep="\n", file=sys.stderr)
    sys.exit(bool(failed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="TEXT")
    parser.add_argument("--group", action="append", default=[])
    parser.add_argument("--cases", type=Path, metavar="FILE")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--limit", type=float, default=900, metavar="S", help="seconds for each process")
    parser.add_argument("--verify-minutes", default="1", metavar="X", help="for each part, as export takes it")
    parser.add_argument("--warm", action="store_true", help="fork processes, which need not import anything")
    parser.add_argument("--skip-plain", action="store_true", help="leave out torch.onnx.export alone")
    # These are for the processes that this one starts.
    parser.add_argument("--case", nargs=4, metavar=("FILE", "NAME", "OUT", "MINUTES"), help=argparse.SUPPRESS)
    parser.add_argument("--plain", nargs=2, metavar=("SOURCE", "NAME"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _entries(arguments: argparse.Namespace, scratch: Path) -> Iterator[Entry]:
    """Yield the models that were asked for; folders of weights are written when they are reached."""
    me, minutes = [sys.executable, __file__], arguments.verify_minutes
    export = [sys.executable, str(ROOT / "cli.py"), "export", "--verify-minutes", minutes]

    def wanted(group: str, name: str) -> bool:
        asked = not arguments.only or any(text in name for text in arguments.only)
        return asked and (not arguments.group or group in arguments.group)

    import zoo_models

    for group, (names, save) in zoo_models.SAVE.items():
        for name in filter(lambda name: wanted(group, name), names):
            folder = scratch / group / name
            save(name, folder)
            model, out = f"{group}:{folder}", folder.with_suffix(".export")
            expected = "refused" if name in zoo_models.REFUSED else "pass"
            command = [*export, "--model", model, "--out", str(out)]
            yield Entry(group, name, expected, out, command, [*me, "--plain", model, ""])
    if arguments.large:
        folder = scratch / "stable-diffusion"
        zoo_models.save_diffusers("AutoencoderKL", folder, zoo_models.STABLE_DIFFUSION)
        model, out = f"diffusers:{folder}", folder.with_suffix(".export")
        command = [*export, "--model", model, "--out", str(out)]
        yield Entry("large", "Stable Diffusion 1.x", "pass", out, command, [*me, "--plain", model, ""])
    for group, file in FUNCTIONS.items():
        for name, case in _module(file).CASES.items():
            if wanted(group, name):
                out, model = scratch / f"{name}.export", f"{file}:{name}"
                command = [*export, "--model", model, "--out", str(out), "--data-shape", case.data, *case.options]
                yield Entry(group, name, case.expected, out, command, [*me, "--plain", str(file), name])
    if arguments.cases:
        for name, case in _cases(arguments.cases).items():
            if wanted("cases", name):
                out, expected = scratch / f"{name}.export", "pass" if case[-1] == "pass" else "refused"
                command = [*me, "--case", str(arguments.cases), name, str(out), minutes]
                yield Entry("cases", name, expected, out, command, [*me, "--plain", str(arguments.cases), name])


def _run(command: Sequence[str], verdicts: dict[int, str], arguments: argparse.Namespace) -> Outcome:
    """Run a process to its end, and measure it."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        if arguments.warm:
            process = _forked(command, output.fileno())
        else:
            process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT).pid
        deadline = started + arguments.limit
        status, usage, late = 0, None, False
        while usage is None:
            pid, status, found = os.wait4(process, os.WNOHANG)
            usage = found if pid else None
            if usage is None and not late and time.perf_counter() > deadline:
                late = True
                os.kill(process, signal.SIGKILL)
            time.sleep(0 if usage else 0.05)
        code = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        output.seek(0)
        text = output.read().strip()
    unit = 1 << 30 if sys.platform == "darwin" else 1 << 20
    message = (text.splitlines() or [""])[-1]
    verdict = verdicts.get(code, f"exit {code}") if verdicts else (message if code == 0 else "fails")
    if late:
        verdict = "limit"
    elif verdicts and "Traceback" in text:
        verdict = "traceback"
    return Outcome(verdict, seconds, usage.ru_maxrss / unit, message)


def _import_everything() -> None:
    """Import what the processes need, and write one small file, so that PyTorch's exporter has its registry."""
    import torch

    import cli  # noqa: F401  # for the processes
    from vae_export import Contract, Source
    from vae_export.capture import capture

    torch.set_num_threads(1)  # threads do not survive a fork
    capture(Source(Contract((1, 2, 2), (4,)), None, torch.nn.Unflatten(1, (1, 2, 2))), "decoder").onnx(20, 1 << 30)


def _forked(command: Sequence[str], output: int) -> int:
    """Run one of our commands in a copy of this process, and return its process id."""
    if pid := os.fork():
        return pid
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = list(command[1:])
    code: object = 1
    try:
        if sys.argv[0] == __file__:
            main()
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as left:
        code = left.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)


def _free_axes(out: Path) -> str:
    """Return the axes that an export leaves free, such as "N h w", or "N<=63" for a bounded batch."""
    if not (out / "manifest.json").is_file():
        return ""
    from vae_export.artifact.manifest import read_manifest

    contract = read_manifest(out).contract
    symbols = {"N": contract.symbols.get("N")} | contract.free_symbols
    names = [
        name if symbol is None or symbol.high is None else f"{name}<={symbol.high}"
        for name, symbol in symbols.items()
        if symbol is None or not symbol.is_fixed
    ]
    return " ".join(names) or "none"


def _module(file: Path) -> Any:
    """Import a file by its path."""
    found = importlib.util.spec_from_file_location(file.stem, file)
    if found is None or found.loader is None:
        sys.exit(f"{file} is no Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[file.stem] = module
    found.loader.exec_module(module)
    return module


def _cases(file: Path) -> dict[str, Any]:
    """Return the CASES of a file: name → (encoder, decoder, data shape, latent shape, range, expected).

    Encoder and decoder are functions that make a module, or None. `expected` is "pass" or "refuse".
    """
    return dict(_module(file).CASES)


def _contract(name: str, data: Any, latent: Any, bounds: Any) -> Any:
    """Return the contract of a case; those with further inputs are known by their names."""
    from vae_export import Condition, Contract

    if name == "codes":
        return Contract(data, latent, bounds, encoding="codes", codebook_size=32)
    if name == "hierarchical":
        return Contract(data, {"z1": (4,), "z2": (8,)}, bounds)
    conditions = [Condition("label", (), "int64", 0, 9)] if name == "conditional" else []
    return Contract(data, latent, bounds, conditions=tuple(conditions))


def _export_case(file: str, name: str, out: str, minutes: str) -> None:
    """Export one case in this process, and leave with the exit code of the command line."""
    import torch

    from vae_export import Source, VaeExportError, export

    torch.manual_seed(0)
    encoder, decoder, data, latent, bounds, _ = _cases(Path(file))[name]
    try:
        source = Source(_contract(name, data, latent, bounds), encoder and encoder(), decoder and decoder())
        export(source, out, minutes=float(minutes))
    except VaeExportError as error:
        print(error)
        sys.exit(error.exit_code)


def _export_plainly(source: str, name: str) -> None:
    """Export a model with torch.onnx.export alone, and print for each part whether the file is right."""
    import torch

    from vae_export.sources import load_source

    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    case = _module(Path(source)).CASES[name] if name else None
    if isinstance(case, tuple):
        encoder, decoder, data, latent, bounds, _ = case
        contract = _contract(name, data, latent, bounds).at()
        modules = {"encoder": encoder and encoder(), "decoder": decoder and decoder()}
    elif case is not None:
        print(_plain_case(case))
        return
    else:
        opened = load_source(source)
        contract = opened.contract.at()
        modules = {"encoder": opened.encoder, "decoder": opened.decoder}
    verdicts = [
        f"{part} {_plain(module, contract.spec(part).inputs)}" for part, module in modules.items() if module is not None
    ]
    print(", ".join(verdicts))


def _plain_case(case: Any) -> str:
    """Return the verdicts of a case, whose inputs it states."""
    from vae_export import Condition
    from vae_export.sources.module_calls import MethodModule, accepted_conditions
    from vae_export.sources.options import parse_condition, parse_shape
    from vae_export.tensors import TensorSpec, sizes_at

    def usual(text: str) -> Any:
        return sizes_at(parse_shape(text, ""), dict.fromkeys("hwst", 4))

    def latent(text: str) -> TensorSpec:
        codes, _, shape = text.rpartition(":")
        return Condition("z", usual(shape), *(("int64", 0, int(codes) - 1) if codes else ())).tensor

    found = case.make()
    if not isinstance(found, tuple):
        found = (MethodModule(found, "encode"), MethodModule(found, "decode"))
    conditions = [
        parse_condition(after)
        for before, after in zip(case.options, case.options[1:], strict=False)
        if before == "--condition"
    ]
    first = {"encoder": [Condition("x", usual(case.data)).tensor], "decoder": [latent(text) for text in case.latents]}
    verdicts = []
    for (part, tensors), module in zip(first.items(), found, strict=True):
        if module is not None and tensors:
            names = accepted_conditions(module, len(tensors), conditions)
            verdicts.append(f"{part} {_plain(module, [*tensors, *(item.tensor for item in names)])}")
    return ", ".join(verdicts)


def _plain(module: Any, tensors: Sequence[Any]) -> str:
    """Return "right", "wrong" or "fails" for one module and the tensors that it takes."""
    import numpy as np
    import onnxruntime
    import torch

    from vae_export.sources.module_outputs import find_leaves

    rng = np.random.default_rng(0)

    def inputs(rows: int) -> tuple[Any, ...]:
        arrays = []
        for tensor in tensors:
            if tensor.is_integer:
                arrays.append(rng.integers(0, int(tensor.high) + 1, (rows, *tensor.fixed_item)).astype(tensor.dtype))
            else:
                arrays.append(rng.standard_normal((rows, *tensor.fixed_item), dtype=np.float32))
        return tuple(arrays)

    class Flat(torch.nn.Module):
        """The module with its outputs as a flat tuple, as a careful user would wrap it."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *values: Any) -> Any:
            found = self.module(*values)
            leaves = [leaf.tensor for leaf in find_leaves(found)]
            return tuple(leaves) if len(leaves) > 1 else leaves[0]

    flat = Flat().eval().float() if isinstance(module, torch.nn.Module) else module
    try:
        example = tuple(map(torch.from_numpy, inputs(2)))
        axes = (tuple({0: torch.export.Dim.DYNAMIC} for _ in example),)
        with torch.no_grad():
            program = torch.onnx.export(flat, example, dynamo=True, dynamic_shapes=axes, verbose=False)
        data = program.model_proto.SerializeToString()  # type: ignore[union-attr]  # it is None only without dynamo
        session = onnxruntime.InferenceSession(data)
        for rows in (1, 3):
            given = inputs(rows)
            with torch.no_grad():
                expected = flat(*map(torch.from_numpy, given))
            expected = expected if isinstance(expected, tuple) else (expected,)
            found = session.run(None, dict(zip([value.name for value in session.get_inputs()], given, strict=True)))
            for one, other in zip(expected, found, strict=True):
                scale = max(float(one.abs().max()), 1e-6)
                if not np.allclose(one.numpy(), other, rtol=0, atol=PLAIN_TOLERANCE * scale):
                    return "wrong"
    except Exception as error:  # every step may raise anything
        print(type(error).__name__, json.dumps(str(error)[:200]), file=sys.stderr)
        return "fails"
    return "right"


if __name__ == "__main__":
    main()
