"""A training that was stopped goes on as if it had not been: to the same bytes, or with a refusal that says why not."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.commands import run_python, tree
from tests.conftest import Outcome
from tests.train.conftest import CLI, ROOT, TINY, Cli, one_line
from train import state
from train.report import Report
from train.state import load_state
from vae_export import files
from vae_export.checkpoint import load_checkpoint
from vae_export.runs import Run
from vae_export.sealed import read_sealed, seal

Invoke = Callable[..., Outcome]

#: 22 steps an epoch.
USUAL = (*TINY, "--epochs", "4", "--seed", "7", "--precision", "float32")
STEPS = 22


#: A training whose process sends itself SIGTERM after a step, counted over all epochs.
STOPPING = """
import os, signal, sys
from train.commands import train
from train.report import Report
from vae_export.cli.app import main

def step(report, epoch, step, total, real=Report.step):
    real(report, epoch, step, total)
    if (epoch - 1) * 22 + step == 50:
        os.kill(os.getpid(), signal.SIGTERM)

Report.step = step
main(train)
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


@pytest.fixture(scope="module")
def reference(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The training that nobody stopped. Not to be written to."""
    run = Run(tmp_path_factory.mktemp("reference") / "run")
    done = cli("train", *USUAL, "--out", run.folder)
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, stopped within the third epoch. Not to be written to."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    done = run_python(STOPPING, "train", *USUAL, "--out", folder)
    assert done.returncode == 143, done.stderr
    return folder


@pytest.fixture
def stopped(stopped_once: Path, run: Run) -> Run:
    """A copy of it."""
    shutil.copytree(stopped_once, run.folder)
    return run


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than these trainings, and have tests of their own."""
    monkeypatch.setattr("train.pictures.draw_pictures", lambda *_: None)


def stop_at(monkeypatch: pytest.MonkeyPatch, *positions: int, number: int = signal.SIGTERM) -> None:
    """Send this process a signal after those steps, counted over all epochs; the next one is done before it ends."""
    real = Report.step

    def step(report: Report, epoch: int, step: int, total: torch.Tensor) -> None:
        real(report, epoch, step, total)
        if (epoch - 1) * STEPS + step in positions:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Report, "step", step)


def figures(run: Run) -> list[object]:
    """The metrics without what the clock says."""
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{key: line[key] for key in line if key not in ("seconds", "images_per_second")} for line in lines]


@pytest.mark.parametrize(
    "options",
    [
        ["--data-protocol", "dynamic", "--weight-average", 0.9, "--kl-warmup", 2],
        ["--family", "post"],  # draws dropout
        ["--family", "conv", "--free-bits", 0.1],  # weights in an order of their own
        ["--likelihood", "discretised-logistic", "--stages", "1:1e-3,3:5e-4", "--precision", "bfloat16"],
    ],
    ids=lambda options: str(options[1]),
)
def test_a_training_stopped_many_times_ends_in_the_same_bytes(
    invoke: Invoke, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[object]
) -> None:
    reference = Run(tmp_path / "reference")
    assert invoke("train", *USUAL, *options, "--out", reference.folder).code == 0
    # Within the first epoch, one step on, before its scores, after a last step, before one, and within the last epoch.
    stops = [5, 7, STEPS, 2 * STEPS - 1, 3 * STEPS - 2, 3 * STEPS + 9]
    stop_at(monkeypatch, *stops)
    first = invoke("train", *USUAL, *options, "--out", run.folder)
    codes = [first.code]
    while codes[-1] == 143:
        resumed = invoke("train", "--resume", "--out", run.folder)
        codes.append(resumed.code)
    assert resumed.code == 0, resumed.err
    assert len(codes) == len(stops) + 1
    assert run.checkpoint.read_bytes() == reference.checkpoint.read_bytes()
    assert figures(run) == figures(reference)
    assert (load_state(run).position, load_state(run).epochs) == (4 * STEPS, 4)
    for name, tensor in load_state(reference).tensors.items():
        assert torch.equal(tensor, load_state(run).tensors[name]), name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_process_that_is_stopped_or_killed_goes_on_to_the_same_bytes(
    invoke: Invoke, run: Run, reference: Run, number: signal.Signals
) -> None:
    command = [*CLI, "train", *map(str, USUAL), "--out", str(run.folder)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not run.training_state.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
        process.send_signal(number)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert (number == signal.SIGKILL) == ("--resume" not in said)
    load_checkpoint(run.checkpoint)
    resumed = invoke("train", "--resume", "--out", run.folder)
    assert resumed.code == 0, resumed.err
    assert "resumed after epoch" in resumed.err
    assert run.checkpoint.read_bytes() == reference.checkpoint.read_bytes()
    assert not list(run.folder.rglob(".partial-*"))


class Killed(BaseException):
    """As if the process had ended here."""


CALLS = ("link", "replace", "fsync")


def die(patch: pytest.MonkeyPatch, call: int, run: Run) -> list[str]:
    """End at the `call`th of the calls that make an end of an epoch durable, after the first epoch's; lists them."""
    made: list[str] = []

    def counted(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def wrapped(*arguments: object) -> object:
            if run.training_state.exists():
                made.append(name)
                if len(made) == call:
                    raise Killed
            return real(*arguments)

        return wrapped

    for name in CALLS:
        patch.setattr(files.os, name, counted(name))
    return made


def test_an_end_at_any_step_of_writing_loses_nothing(
    invoke: Invoke, tmp_path: Path, reference: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        whole = die(patch, -1, Run(tmp_path / "whole"))
        assert invoke("train", *USUAL, "--epochs", 2, "--out", tmp_path / "whole").code == 0
    for call in range(1, len(whole) + 1):
        run = Run(tmp_path / f"run-{call}")
        with monkeypatch.context() as patch, pytest.raises(Killed):
            die(patch, call, run)
            invoke("train", *USUAL, "--out", run.folder)
        acknowledged = load_state(run)
        assert acknowledged.epochs >= 1
        assert load_checkpoint(run.checkpoint).provenance["epoch"] >= acknowledged.epochs
        load_checkpoint(run.checkpoint)
        if call % 3 == 0:  # each would take long
            resumed = invoke("train", "--resume", "--out", run.folder)
            assert resumed.code == 0, resumed.err
            assert run.checkpoint.read_bytes() == reference.checkpoint.read_bytes()
            assert figures(run) == figures(reference)
    assert set(whole) == set(CALLS)


def test_a_finished_training_says_so_and_is_left_as_it_is(invoke: Invoke, reference: Run) -> None:
    before = tree(reference.folder)
    done = invoke("train", "--resume", "--out", reference.folder, "--json")
    assert done.code == 0
    assert "finished: all 4 epochs are done" in done.err
    assert json.loads(done.out)["epoch"] == load_state(reference).saved.epoch  # type: ignore[union-attr]
    assert {**tree(reference.folder), ".lock": b""} == {**before, ".lock": b""}


def test_pictures_that_a_stop_prevented_are_drawn_by_a_resume(
    invoke: Invoke, run: Run, reference: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(reference.folder, run.folder)
    shutil.rmtree(run.pictures)
    monkeypatch.setattr("train.pictures.draw_pictures", lambda _model, _images, run: run.pictures.mkdir())
    assert invoke("train", "--resume", "--out", run.folder).code == 0
    assert run.pictures.is_dir()


def test_the_command_may_be_typed_again_as_it_was(invoke: Invoke, stopped: Run, reference: Run) -> None:
    done = invoke("train", "--resume", *USUAL, "--out", stopped.folder)
    assert done.code == 0, done.err
    assert stopped.checkpoint.read_bytes() == reference.checkpoint.read_bytes()


def test_without_a_folder_the_run_that_was_trained_last_goes_on(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stopped_once: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    for name in ("first", "second"):
        shutil.copytree(stopped_once, Path("artifacts") / name)
        os.utime(Run(Path("artifacts") / name).training_state)
    done = invoke("train", "--resume")
    assert done.code == 0, done.err
    assert f"run: {Path('artifacts') / 'second'}" in done.err
    assert load_state(Run(Path("artifacts") / "first")).epochs == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--batch-size", 32], ["batch_size 64", "batch_size 32"]),
        (["--seed", 8], ["seed 7", "seed 8"]),
        (["--family", "conv"], ["family mlp", "family conv"]),
        (["--beta", 2], ["beta 1.0", "beta 2.0"]),
        (["--data-protocol", "dynamic"], ["protocol grey", "protocol dynamic"]),
        (["--likelihood", "gaussian"], ["'name': 'bernoulli'", "'name': 'gaussian'"]),
        (["--weight-average", 0.9], ["weight_average 0.99", "weight_average 0.9"]),
        (["--precision", "bfloat16"], ["precision float32", "precision bfloat16"]),
        (["--epochs", 9], ["epochs 4", "epochs 9"]),  # its learning rate follows one cycle over all epochs
        (["--preset", "burda"], ["preset None", "preset burda"]),
    ],
    ids=lambda value: str(value[0]),
)
def test_options_that_would_make_it_another_training_are_refused_with_both_values(
    invoke: Invoke, stopped: Run, options: list[object], named: list[str]
) -> None:
    before = tree(stopped.folder)
    done = invoke("train", "--resume", "--out", stopped.folder, *options)
    assert done.code == 2
    line = one_line(done.err)
    assert all(value in line for value in named), line
    assert {**tree(stopped.folder), ".lock": b""} == {**before, ".lock": b""}


def test_other_images_are_refused(invoke: Invoke, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(40):
        Image.new("L", (16, 16), index).save(photos / f"{index}.png")
    usual = [*TINY[2:], "--dataset", "folder", "--data-dir", photos, "--image-size", 16, "--batch-size", 16]
    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        assert invoke("train", *usual, "--epochs", 3, "--out", run.folder).code == 143
    (photos / "7.png").unlink()
    done = invoke("train", "--resume", "--out", run.folder)
    assert done.code == 3
    assert "not the images that the training began with: folder; expected SHA-256" in one_line(done.err)


def test_more_epochs_are_trained_where_the_learning_rate_does_not_depend_on_their_number(
    invoke: Invoke, run: Run, tmp_path: Path
) -> None:
    long = Run(tmp_path / "long")
    assert invoke("train", *USUAL, "--family", "post", "--epochs", 3, "--out", long.folder).code == 0
    assert invoke("train", *USUAL, "--family", "post", "--epochs", 2, "--out", run.folder).code == 0
    done = invoke("train", "--resume", "--epochs", 3, "--out", run.folder)
    assert done.code == 0, done.err
    assert run.checkpoint.read_bytes() == long.checkpoint.read_bytes()
    fewer = invoke("train", "--resume", "--epochs", 2, "--out", run.folder)
    assert fewer.code == 2
    assert "expected epochs 3, got epochs 2" in one_line(fewer.err)


def test_another_number_of_threads_is_taken_and_on_record(invoke: Invoke, stopped: Run, reference: Run) -> None:
    done = invoke("train", "--resume", "--out", stopped.folder, "--threads", 2)
    torch.set_num_threads(1)
    assert done.code == 0, done.err
    assert "note: threads 1 → 2" in done.err
    training = load_checkpoint(stopped.checkpoint).provenance["training"]
    assert training["changed_on_resume"] == ["threads 1 → 2 at step 51"]
    assert training["threads"] == 2
    expected = load_checkpoint(reference.checkpoint).weights
    for name, tensor in load_checkpoint(stopped.checkpoint).weights.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [["--force"], ["--out", "nowhere"]], ids=" ".join)
def test_nothing_to_resume_or_two_minds_are_usage_errors(invoke: Invoke, stopped: Run, options: list[str]) -> None:
    done = invoke("train", "--resume", *(["--out", stopped.folder] if options == ["--force"] else []), *options)
    assert done.code == 2
    one_line(done.err)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5000] ^= 4
    path.write_bytes(data)


def rewrite(change: Callable[[dict[str, object], dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """A state with the right hash over content that no training would write."""

    def apply(path: Path) -> None:
        header, tensors, _ = read_sealed(path, "state", state.FORMAT, [torch.float32], expected="one")
        change(header, tensors)
        path.write_bytes(seal(header, tensors))

    return apply


DAMAGE = {
    "truncated": (truncate, 3, "training state cannot be read"),
    "flipped bit": (flip, 4, "training state was altered"),
    "other version": (rewrite(lambda header, _: header.update(format="vae-export-state/9")), 3, "vae-export-state/9"),
    "missing key": (rewrite(lambda header, _: header.pop("position")), 3, "'position'"),
    "missing tensor": (rewrite(lambda _, tensors: tensors.pop("loss")), 3, "missing loss"),
    "extra tensor": (rewrite(lambda _, tensors: tensors.update(more=torch.zeros(1))), 3, "unknown more"),
    "other shape": (rewrite(lambda _, tensors: tensors.update(loss=torch.zeros(2))), 3, "loss is torch.float32 (2,)"),
    "gone": (Path.unlink, 3, "no such file"),
}


@pytest.mark.parametrize(("damage", "code", "what"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_state_is_one_line_that_says_how_to_go_on_from_the_one_before_it(
    invoke: Invoke,
    stopped: Run,
    reference: Run,
    damage: Callable[[Path], None],
    code: int,
    what: str,
) -> None:
    damage(stopped.training_state)
    done = invoke("train", "--resume", "--out", stopped.folder)
    assert done.code == code, done.err
    line = one_line(done.err)
    assert what in line
    advice = line[line.index("cp ") :]
    subprocess.run(shlex.split(advice), check=True)
    resumed = invoke("train", "--resume", "--out", stopped.folder)
    assert resumed.code == 0, resumed.err
    assert stopped.checkpoint.read_bytes() == reference.checkpoint.read_bytes()
    assert figures(stopped) == figures(reference)


def test_a_damaged_checkpoint_is_not_trained_over(invoke: Invoke, stopped: Run) -> None:
    flip(stopped.checkpoint)
    done = invoke("train", "--resume", "--out", stopped.folder)
    assert done.code == 4
    assert str(stopped.previous_checkpoint) in one_line(done.err)


def test_a_new_training_in_the_folder_leaves_no_state_of_the_old_one(
    invoke: Invoke, stopped: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Report, "step", lambda *_: 1 / 0)
        assert invoke("train", *USUAL, "--out", stopped.folder, "--force").code == 1
    done = invoke("train", "--resume", "--out", stopped.folder)
    assert done.code == 2
    assert "nothing to resume" in one_line(done.err)


def test_numbers_that_are_not_finite_never_replace_a_good_state(
    invoke: Invoke, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train.loop import Trainer

    real = Trainer.tensors

    def poisoned(trainer: Trainer) -> dict[str, torch.Tensor]:
        tensors = real(trainer)
        if trainer.position > STEPS:
            tensors["model.encoder.mean.weight"][0] = torch.nan
        return tensors

    monkeypatch.setattr(Trainer, "tensors", poisoned)
    stop_at(monkeypatch, 30)
    done = invoke("train", *USUAL, "--out", run.folder)
    assert done.code == 3
    assert "training diverged: epoch 2" in one_line(done.err)
    assert load_state(run).epochs == 1
