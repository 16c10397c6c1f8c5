"""Export a zoo of VAEs through the command line, beside `torch.onnx.export` alone: seconds, memory, verdict.

    python benchmarks/zoo.py                           every model: diffusers, pythae, modules of people's own code
    python benchmarks/zoo.py --only AutoencoderDC      those whose name has this text
    python benchmarks/zoo.py --cases FILE              also the modules of a file with a mapping CASES, see `Case`
    python benchmarks/zoo.py --large                   also the autoencoder of Stable Diffusion 1.x: gigabytes, minutes

Each model is exported by a process of its own, twice: by `vae-export export` to a verified folder, and by
`torch.onnx.export` with a dynamic batch, where "right" means that ONNX Runtime agrees with PyTorch to 1e-4 of the
largest value at batches 1 and 3. Memory is the peak of the process. Exits 1 if a verdict is not the expected one.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
#: Exit codes of `vae-export export` by what they say: published with a passed certificate, or refused.
VERDICTS = {0: "pass", 2: "refused", 3: "refused", 5: "refused"}
#: Seconds after which a process is ended.
LIMIT = 900
PLAIN_TOLERANCE = 1e-4


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
    if arguments.case is not None:
        _export_case(*arguments.case)
        return
    if arguments.plain is not None:
        _export_plainly(*arguments.plain)
        return
    failed = []
    print(f"| {'model':34} | verdict | {'s':>5} | {'GB':>4} | torch.onnx.export alone | {'s':>5} | {'GB':>4} |")
    print(f"|{'-' * 36}|---|---|---|---|---|---|")
    for name, expected, ours, plain in _entries(arguments):
        if arguments.only and arguments.only not in name:
            continue
        found, alone = _run(ours, VERDICTS), _run(plain, {})
        verdict = found.verdict + ("" if found.verdict == expected else f", {expected} expected")
        print(
            f"| {name:34} | {verdict:7} | {found.seconds:5.1f} | {found.gigabytes:4.1f} "
            f"| {alone.verdict:23} | {alone.seconds:5.1f} | {alone.gigabytes:4.1f} |",
            flush=True,
        )
        if found.verdict != expected:
            failed.append(f"{name}: {found.message}")
    print(*failed, sep="\n", file=sys.stderr)
    sys.exit(bool(failed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--cases", type=Path)
    parser.add_argument("--large", action="store_true")
    # These are for the processes that this one starts.
    parser.add_argument("--case", nargs=3, metavar=("FILE", "NAME", "OUT"), help=argparse.SUPPRESS)
    parser.add_argument("--plain", nargs=2, metavar=("SOURCE", "NAME"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _entries(arguments: argparse.Namespace) -> Iterator[tuple[str, str, list[str], list[str]]]:
    """Yield the name, the expected verdict and the two commands of each model."""
    import zoo_models

    cli, me = [sys.executable, str(ROOT / "cli.py")], [sys.executable, __file__]
    with tempfile.TemporaryDirectory() as scratch:
        for prefix, (names, save) in zoo_models.SAVE.items():
            for name in names:
                if arguments.only and arguments.only not in name:
                    continue
                folder = Path(scratch) / prefix / name
                save(name, folder)
                model, out = f"{prefix}:{folder}", str(folder.with_suffix(".export"))
                yield name, "pass", [*cli, "export", "--model", model, "--out", out], [*me, "--plain", model, ""]
        if arguments.large:
            folder = Path(scratch) / "stable-diffusion"
            zoo_models.save_diffusers("AutoencoderKL", folder, zoo_models.STABLE_DIFFUSION)
            model, out = f"diffusers:{folder}", str(folder.with_suffix(".export"))
            yield (
                "Stable Diffusion 1.x",
                "pass",
                [*cli, "export", "--model", model, "--out", out],
                [*me, "--plain", model, ""],
            )
        files = [Path(__file__).with_name("zoo_modules.py"), *([arguments.cases] if arguments.cases else [])]
        for file in files:
            for name, case in _cases(file).items():
                expected = {"pass": "pass"}.get(case[-1], "refused")
                out = str(Path(scratch) / f"{name}.export")
                yield name, expected, [*me, "--case", str(file), name, out], [*me, "--plain", str(file), name]


def _run(command: Sequence[str], verdicts: dict[int, str]) -> Outcome:
    """Run a process to its end, and measure it."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT)
        deadline = started + LIMIT
        status, usage = 0, None
        while usage is None:
            pid, status, found = os.wait4(process.pid, os.WNOHANG)
            usage = found if pid else None
            if usage is None and time.perf_counter() > deadline:
                process.kill()
            time.sleep(0 if usage else 0.05)
        process.returncode = code = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        output.seek(0)
        message = (output.read().strip().splitlines() or [""])[-1]
    unit = 1 << 30 if sys.platform == "darwin" else 1 << 20
    verdict = verdicts.get(code, f"exit {code}") if verdicts else (message if code == 0 else "fails")
    return Outcome(verdict, seconds, usage.ru_maxrss / unit, message)


def _cases(file: Path) -> dict[str, Any]:
    """Return the CASES of a file: name → (encoder, decoder, data shape, latent shape, range, expected).

    Encoder and decoder are functions that make a module, or None. `expected` is "pass" or "refuse".
    """
    found = importlib.util.spec_from_file_location(file.stem, file)
    if found is None or found.loader is None:
        sys.exit(f"{file} is no Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[file.stem] = module
    found.loader.exec_module(module)
    return dict(module.CASES)


def _contract(name: str, data: Any, latent: Any, bounds: Any) -> Any:
    """Return the contract of a case; those with further inputs are known by their names."""
    from vae_export import Condition, Contract

    if name == "codes":
        return Contract(data, latent, bounds, encoding="codes", codebook_size=32)
    if name == "hierarchical":
        return Contract(data, {"z1": (4,), "z2": (8,)}, bounds)
    conditions = [Condition("label", (), "int64", 0, 9)] if name == "conditional" else []
    return Contract(data, latent, bounds, conditions=tuple(conditions))


def _export_case(file: str, name: str, out: str) -> None:
    """Export one case in this process, and leave with the exit code of the command line."""
    import torch

    from vae_export import Source, VaeExportError, export

    torch.manual_seed(0)
    encoder, decoder, data, latent, bounds, _ = _cases(Path(file))[name]
    try:
        source = Source(_contract(name, data, latent, bounds), encoder and encoder(), decoder and decoder())
        export(source, out)
    except VaeExportError as error:
        print(error)
        sys.exit(error.exit_code)


def _export_plainly(source: str, name: str) -> None:
    """Export a model with torch.onnx.export alone, and print for each part whether the file is right."""
    import torch

    from vae_export.sources import load_source

    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    if name:
        encoder, decoder, data, latent, bounds, _ = _cases(Path(source))[name]
        contract = _contract(name, data, latent, bounds).at()
        modules = {"encoder": encoder and encoder(), "decoder": decoder and decoder()}
    else:
        opened = load_source(source)
        contract = opened.contract.at()
        modules = {"encoder": opened.encoder, "decoder": opened.decoder}
    verdicts = [
        f"{part} {_plain(module, contract.spec(part))}" for part, module in modules.items() if module is not None
    ]
    print(", ".join(verdicts))


def _plain(module: Any, spec: Any) -> str:
    """Return "right", "wrong" or "fails" for one module."""
    import numpy as np
    import onnxruntime
    import torch

    rng = np.random.default_rng(0)

    def inputs(rows: int) -> tuple[Any, ...]:
        arrays = []
        for tensor in spec.inputs:
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
            if hasattr(found, "latent_dist"):
                return found.latent_dist.mean, found.latent_dist.logvar
            if hasattr(found, "sample") and isinstance(found.sample, torch.Tensor):
                return found.sample
            if isinstance(found, torch.distributions.Distribution):
                return found.mean, found.stddev
            return tuple(found.values()) if isinstance(found, dict) else found

    flat = Flat().eval() if isinstance(module, torch.nn.Module) else module
    try:
        tensors = tuple(map(torch.from_numpy, inputs(2)))
        axes = (tuple({0: torch.export.Dim.DYNAMIC} for _ in tensors),)
        with torch.no_grad():
            program = torch.onnx.export(flat, tensors, dynamo=True, dynamic_shapes=axes, verbose=False)
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
