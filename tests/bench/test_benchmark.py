"""Each subject is measured in its own process, beside the roofline; one that dies is left out, and the others go on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bench.conftest import PLAN, TARGETS
from tests.bench.scripted import ScriptedProcess
from tests.commands import run_python
from tests.conftest import Exported
from vae_export.artifact.certificate import StoredCertificate, read_certificate
from vae_export.bench import benchmark
from vae_export.bench.kernels import available_libraries
from vae_export.bench.process import SubjectError, SubjectProcess
from vae_export.bench.results import BenchPlan, Timings
from vae_export.bench.subjects import EAGER, RUNTIME, Subject
from vae_export.capture import capture
from vae_export.errors import ParityError, TargetError, UsageError

ONNX = "onnx/CPUExecutionProvider"

pytestmark = pytest.mark.slow


def test_each_subject_has_a_result_for_each_batch_size(timings: Timings) -> None:
    assert [(result.subject, result.batch) for result in timings.results] == [
        (name, batch) for name in [EAGER, *TARGETS] for batch in PLAN.batches
    ]
    assert timings.unusable == {}
    for result in timings.results:
        assert 0 < result.p50_seconds <= result.p90_seconds <= result.p99_seconds
        assert result.calls >= 2 * (PLAN.rounds - result.disturbed_rounds)
        assert result.memory_bytes > 1 << 20
        assert result.roofline_share is not None
        assert 0 < result.roofline_share.low <= result.roofline_share.median <= result.roofline_share.high <= 1
        eager = next(other for other in timings.results if (other.subject, other.batch) == (EAGER, result.batch))
        assert result.speedup.median == pytest.approx(eager.p50_seconds / result.p50_seconds, rel=1e-4)
        assert result.subject != EAGER or result.speedup.low == result.speedup.high == 1


def test_roofline_counts_the_operations_of_the_graph(timings: Timings, mlp: Exported) -> None:
    decoder = capture(mlp.source, "decoder").module
    matrices = sum(tensor.numel() for tensor in decoder.parameters() if tensor.ndim == 2)
    for roofline in timings.rooflines:
        assert roofline.operations == 2 * roofline.batch * matrices
        assert roofline.weight_bytes == 4 * sum(tensor.numel() for tensor in decoder.parameters())
        assert roofline.libraries_seconds == max(roofline.weights_seconds, roofline.products_seconds)
        assert roofline.seconds <= roofline.libraries_seconds
        assert roofline.fastest_call_seconds is not None
        assert sum(product.count for product in roofline.products) == 3
        assert {product.library for product in roofline.products} <= set(available_libraries())
        assert min(roofline.weights_seconds, roofline.products_seconds) > 0


def test_runtime_without_torch_takes_less_memory_and_loads_faster(timings: Timings) -> None:
    load = {subject.name: subject.load_seconds for subject in timings.subjects}
    memory = {result.subject: result.memory_bytes for result in timings.results}
    for name in TARGETS[:2]:
        assert load[name] < load[EAGER]
        assert memory[name] < memory[EAGER]
    result = run_python("import sys, vae_export.bench.worker; sys.exit('torch' in sys.modules)")
    assert result.returncode == 0, result.stderr


def test_best_is_the_fastest_file(timings: Timings) -> None:
    for batch in PLAN.batches:
        best = timings.best("decoder", batch)
        assert best is not None
        files = [result for result in timings.results if result.batch == batch and result.subject in TARGETS[1:]]
        assert best.p50_seconds == min(result.p50_seconds for result in files)


Measured = Callable[..., Timings]


@pytest.fixture
def measured(mlp: Exported, monkeypatch: pytest.MonkeyPatch) -> Measured:
    """`measured([target])`: a benchmark in which PyTorch and the roofline are scripted, and `process` runs the rest."""

    def measure(targets: list[str], *, process: Any = ScriptedProcess, rounds: int = 1) -> Timings:
        def start(subject: Subject) -> Any:
            scripted = subject.name == EAGER or subject.name.startswith("roofline/")
            return (ScriptedProcess if scripted else process)(subject)

        monkeypatch.setattr(benchmark, "SubjectProcess", start)
        assert mlp.checkpoint is not None
        plan = BenchPlan(batches=(1,), threads=(1,), rounds=rounds, seconds=0.001)
        certificate = read_certificate(mlp.artifact.certificate)
        return benchmark.bench(mlp.artifact, mlp.checkpoint, certificate, plan, targets=targets)

    return measure


def test_disturbed_round_changes_no_figure(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two of three rounds disturbed, the ratio was 49.65 beside medians of 714 and 551 µs."""
    quiet, loaded = [714e-6] * 3, [27.4e-3, 714e-6, 29.1e-3]
    found = []
    for eager in (quiet, loaded):
        monkeypatch.setattr(ScriptedProcess, "seconds", {EAGER: eager, ONNX: [551e-6] * 3})
        found.append({result.subject: result for result in measured([ONNX], rounds=3).results})
    (before, after) = found
    assert (before[ONNX].disturbed_rounds, after[ONNX].disturbed_rounds) == (0, 0)
    assert (before[EAGER].disturbed_rounds, after[EAGER].disturbed_rounds) == (0, 2)
    for name in (EAGER, ONNX):
        assert after[name].p50_seconds == before[name].p50_seconds
        assert after[name].p99_seconds == before[name].p99_seconds
        assert after[name].speedup == before[name].speedup
    assert after[ONNX].speedup.median == pytest.approx(after[EAGER].p50_seconds / after[ONNX].p50_seconds)


class DyingProcess(SubjectProcess):
    """A process that is killed when it gets its first request of one kind."""

    fatal_request = "time"

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        if do == self.fatal_request:
            os.kill(self.pid, signal.SIGSEGV)
        return super().ask(do, **arguments)


class DyingAtOpen(DyingProcess):
    fatal_request = "open"


def test_crashed_subject_is_left_out_and_the_others_go_on(measured: Measured) -> None:
    def process(subject: Subject) -> Any:
        return (DyingProcess if subject.name == ONNX else ScriptedProcess)(subject)

    timings = measured([ONNX, "torchscript/cpu"], process=process)
    assert timings.unusable == {f"decoder, {ONNX}": "batch 1: its process died of SIGSEGV"}
    assert [result.subject for result in timings.results] == [EAGER, "torchscript/cpu"]
    assert [subject.name for subject in timings.subjects] == [EAGER, "torchscript/cpu"]


def test_requested_target_that_cannot_be_opened_is_an_error(measured: Measured) -> None:
    with pytest.raises(TargetError, match=rf"decoder, {ONNX}; got its process died of SIGSEGV"):
        measured([ONNX], process=DyingAtOpen)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import time; time.sleep(60)", "no answer within 0.3 s"),
        ("import sys; sys.exit('boom\\n')", "ended with exit code 1; got boom"),
        ("import os; os.abort()", "died of SIGABRT"),
    ],
)
def test_process_that_hangs_or_ends_is_an_error(program: str, message: str) -> None:
    subject = Subject("none", "none", "decoder", EAGER, {})
    timeout = 0.3 if "sleep" in program else 60
    with (
        pytest.raises(SubjectError, match=message),
        SubjectProcess(subject, seconds=timeout, command=(sys.executable, "-c", program)) as process,
    ):
        process.begin()


def test_files_that_an_engine_unpacks_are_removed_with_its_process() -> None:
    """AOTInductor unpacks its packages: a process that is killed does not remove them itself."""
    program = "import sys, tempfile; sys.exit(tempfile.mkdtemp())"
    with SubjectProcess(
        Subject("none", "none", "decoder", EAGER, {}), command=(sys.executable, "-c", program)
    ) as process:
        with pytest.raises(SubjectError) as caught:
            process.begin()
        unpacked = Path(str(caught.value).rpartition("got ")[2])
        assert unpacked.is_dir()
    assert not unpacked.exists()


def test_uncertified_files_are_not_measured(mlp: Exported) -> None:
    assert mlp.checkpoint is not None
    certificate = read_certificate(mlp.artifact.certificate)
    failed = StoredCertificate(certificate.data, dict(certificate.document) | {"verdict": "fail"})
    with pytest.raises(ParityError):
        benchmark.bench(mlp.artifact, mlp.checkpoint, failed, PLAN)


def test_short_names_of_subjects_are_enough(mlp: Exported) -> None:
    names = ["Eager/CPU", "runtime/cpu", "onnx/CPU", "torchscript/CPU"]
    assert benchmark.full_names(names, mlp.artifact.manifest) == [EAGER, RUNTIME, ONNX, "torchscript/cpu"]


def test_missing_provider_is_refused_before_anything_is_measured(mlp: Exported) -> None:
    with pytest.raises(TargetError, match="device not found: torchscript/toaster; expected cpu"):
        benchmark.choose_subjects(mlp.artifact, "decoder", ["torchscript/toaster"])


@pytest.mark.parametrize("target", ["eager", "onnx", "openvino2/CPU", "roofline/torch"])
def test_unknown_target_is_refused(measured: Measured, target: str) -> None:
    with pytest.raises(UsageError, match="no file for this target"):
        measured([target])


def test_size_that_the_export_does_not_have_is_refused(mlp: Exported) -> None:
    assert mlp.checkpoint is not None
    certificate = read_certificate(mlp.artifact.certificate)
    with pytest.raises(UsageError, match="unknown size; expected no --size: all sizes are fixed, got h"):
        benchmark.bench(mlp.artifact, mlp.checkpoint, certificate, replace(PLAN, sizes={"h": 32}))
