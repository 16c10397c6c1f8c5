"""Every side is measured in its own process, beside the limit; one that dies takes nothing with it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench.conftest import PLAN, TARGETS
from tests.commands import run_python
from tests.conftest import Exported
from vae_export.artifact.certificate import StoredCertificate, read_certificate
from vae_export.bench import benchmark
from vae_export.bench.process import SubjectError, SubjectProcess
from vae_export.bench.results import BenchPlan, Timings, read_timings
from vae_export.bench.subjects import EAGER, Subject
from vae_export.capture import capture
from vae_export.errors import InputError, IntegrityError, ParityError, TargetError, UsageError

pytestmark = pytest.mark.slow


def test_every_side_has_a_figure_for_every_batch(timings: Timings) -> None:
    assert [(f.subject, f.batch) for f in timings.results] == [
        (side, batch) for side in [EAGER, *TARGETS] for batch in PLAN.batches
    ]
    assert timings.unusable == {}
    for result in timings.results:
        assert 0 < result.p50_seconds <= result.p90_seconds <= result.p99_seconds
        assert result.calls >= 2 * PLAN.rounds
        assert result.memory_bytes > 1 << 20
        assert result.roofline_share is not None
        assert 0 < result.roofline_share.low <= result.roofline_share.median <= result.roofline_share.high
        assert result.subject != EAGER or result.speedup.low == result.speedup.high == 1


def test_the_limit_counts_what_the_graph_does(timings: Timings, mlp: Exported) -> None:
    decoder = capture(mlp.source, "decoder").module
    matrices = sum(tensor.numel() for tensor in decoder.parameters() if tensor.ndim == 2)
    for roofline in timings.rooflines:
        assert roofline.operations == 2 * roofline.batch * matrices
        assert roofline.weight_bytes == 4 * sum(tensor.numel() for tensor in decoder.parameters())
        assert roofline.seconds >= roofline.weights_seconds > 0
        assert roofline.seconds >= roofline.products_seconds > 0


def test_a_runtime_without_torch_takes_less_memory_and_loads_sooner(timings: Timings) -> None:
    load = {subject.name: subject.load_seconds for subject in timings.subjects}
    memory = {result.subject: result.memory_bytes for result in timings.results}
    for name in TARGETS[:2]:
        assert load[name] < load[EAGER]
        assert memory[name] < memory[EAGER]
    result = run_python("import sys, vae_export.bench.worker; sys.exit('torch' in sys.modules)")
    assert result.returncode == 0, result.stderr


def test_timings_are_read_back_as_they_were_written(timings: Timings, tmp_path: Path) -> None:
    path = tmp_path / "timings.json"
    timings.write(path)
    assert read_timings(path).text == path.read_bytes()
    path.write_bytes(timings.text.replace(b"timings/1", b"timings/9"))
    with pytest.raises(InputError, match="another version"):
        read_timings(path)
    path.write_bytes(timings.text.replace(b'"calls"', b'"cells"'))
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_timings(path)


def test_the_best_is_a_file_and_the_quickest(timings: Timings) -> None:
    for batch in PLAN.batches:
        best = timings.best("decoder", batch)
        assert best is not None
        files = [f for f in timings.results if f.batch == batch and f.subject in TARGETS[1:]]
        assert best.p50_seconds == min(result.p50_seconds for result in files)


class Dying(SubjectProcess):
    """The TorchScript side's process is killed when it is first asked for `moment`."""

    moment = "time"

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        if do == self.moment and self.subject.name == "torchscript/cpu":
            os.kill(self.pid, signal.SIGSEGV)
        return super().ask(do, **order)


def measured(mlp: Exported, targets: list[str] | None) -> Timings:
    assert mlp.checkpoint is not None
    plan = BenchPlan(batches=(1,), threads=(1,), rounds=1, seconds=0.001)
    return benchmark.bench(
        mlp.artifact, mlp.checkpoint, read_certificate(mlp.artifact.certificate), plan, targets=targets
    )


def test_a_side_that_crashes_is_one_line_and_the_others_go_on(mlp: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "SubjectProcess", Dying)
    timings = measured(mlp, TARGETS[1:])
    assert timings.unusable == {"decoder, torchscript/cpu": "batch 1: its process died of SIGSEGV"}
    assert [result.subject for result in timings.results] == [EAGER, "onnx/CPUExecutionProvider"]
    assert [subject.name for subject in timings.subjects] == [EAGER, "onnx/CPUExecutionProvider"]


def test_a_target_that_was_asked_for_and_cannot_be_opened_is_an_error(
    mlp: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "SubjectProcess", Dying)
    monkeypatch.setattr(Dying, "moment", "open")
    with pytest.raises(TargetError, match=r"decoder, torchscript/cpu; got its process died of SIGSEGV"):
        measured(mlp, TARGETS[1:])


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("import time; time.sleep(60)", "no answer within 0.3 s"),
        ("import sys; sys.exit('boom\\n')", "ended with exit code 1; got boom"),
        ("import os; os.abort()", "died of SIGABRT"),
    ],
)
def test_a_process_that_hangs_or_ends_is_named(program: str, says: str) -> None:
    subject = Subject("none", "none", "decoder", EAGER)
    limit = 0.3 if "sleep" in program else 60
    with (
        pytest.raises(SubjectError, match=says),
        SubjectProcess(subject, seconds=limit, command=(sys.executable, "-c", program)) as worker,
    ):
        worker.begin()


def test_what_an_engine_unpacks_is_gone_with_its_process() -> None:
    """AOTInductor's packages: a process that is killed does not remove them itself."""
    program = "import sys, tempfile; sys.exit(tempfile.mkdtemp())"
    with SubjectProcess(Subject("none", "none", "decoder", EAGER), command=(sys.executable, "-c", program)) as worker:
        with pytest.raises(SubjectError) as caught:
            worker.begin()
        unpacked = Path(str(caught.value).rpartition("got ")[2])
        assert unpacked.is_dir()
    assert not unpacked.exists()


def test_what_is_not_certified_is_not_measured(mlp: Exported) -> None:
    assert mlp.checkpoint is not None
    record = read_certificate(mlp.artifact.certificate)
    failed = StoredCertificate(record.data, dict(record.document) | {"verdict": "fail"})
    with pytest.raises(ParityError):
        benchmark.bench(mlp.artifact, mlp.checkpoint, failed, PLAN)


@pytest.mark.parametrize("target", ["eager", "onnx", "openvino2/CPU", "products"])
def test_a_side_that_does_not_exist_is_refused_before_any_work(mlp: Exported, target: str) -> None:
    with pytest.raises(UsageError, match="no file for this target"):
        measured(mlp, [target])
