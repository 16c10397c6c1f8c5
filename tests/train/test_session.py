"""A training in its folder: what is chosen, kept, replaced and refused. In this process, on a few real digits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from train import loop, session
from train.data import Dataset, load
from train.evaluate import evaluate
from train.options import DataOptions, TrainOptions
from train.report import Report, reporting
from train.session import Session, check_out, claimed
from vae_export.checkpoint import load_checkpoint
from vae_export.errors import DataError, InputError, Interrupted, OutputExistsError, Terminated, UsageError
from vae_export.models.config import Family
from vae_export.runs import Run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    whole = load(DataOptions("digits"))
    return Dataset("digits", whole.train[:256], whole.validation[:64], whole.test[:80])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def options(**changes: object) -> TrainOptions:
    usual = {"latent_size": 3, "hidden_size": 16, "epochs": 3, "batch_size": 64, "threads": 1}
    return TrainOptions(DataOptions("digits"), **(usual | changes))  # type: ignore[arg-type]


def do(digits: Dataset, run: Run, *, force: bool = False, **changes: object) -> session.Saved:
    with claimed(run, force=force), reporting(epochs=3, steps=4, batch_size=64) as report:
        return Session(options(**changes), run, digits, CPU).train(report)


def metrics(run: Run) -> list[dict[str, dict[str, float]]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


@pytest.mark.parametrize("family", ["mlp", "post", "conv"])
def test_every_family_learns_and_its_checkpoint_holds_what_was_scored(
    digits: Dataset, run: Run, family: Family
) -> None:
    saved = do(digits, run, family=family)
    lines = metrics(run)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    key = "negative_elbo_nats_per_image"
    assert lines[-1]["train"][key] < lines[0]["train"][key]
    checkpoint = load_checkpoint(run.checkpoint)
    again = evaluate(checkpoint.model(), digits.test)  # its weights lie in another order: `conv` rounds otherwise
    assert again.negative_elbo == pytest.approx(saved.test.negative_elbo, rel=1e-6)
    assert again.active_units == saved.test.active_units
    assert torch.equal(checkpoint.examples, digits.test[:64])
    assert checkpoint.provenance["scores"]["test"] == saved.test.to_json()
    assert str(run.folder.parent) not in json.dumps(checkpoint.provenance)


def test_the_best_epoch_by_validation_is_kept_whatever_the_test_images_say(
    digits: Dataset, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = evaluate, iter([5, 300, 30, 5, 100, 20, 5, 200, 10])  # train, validation, test of three epochs

    def scripted(model: object, pixels: torch.Tensor) -> object:
        score = real(model, pixels)  # type: ignore[arg-type]
        return type(score)(**{**vars(score), "negative_elbo": float(next(calls))})

    monkeypatch.setattr(session, "evaluate", scripted)
    saved = do(digits, run)
    assert (saved.epoch, saved.steps) == (2, 8)
    assert saved.validation.negative_elbo == 100
    assert load_checkpoint(run.checkpoint).provenance["epoch"] == 2
    assert load_checkpoint(run.previous_checkpoint).provenance["epoch"] == 1


def test_bfloat16_is_for_training_alone_and_on_record(digits: Dataset, tmp_path: Path) -> None:
    runs = {name: Run(tmp_path / name) for name in ("float32", "bfloat16")}
    scores = {name: do(digits, run, precision=name).test.negative_elbo for name, run in runs.items()}
    assert scores["float32"] != scores["bfloat16"]
    assert scores["float32"] == pytest.approx(scores["bfloat16"], rel=0.02)
    for name, run in runs.items():
        checkpoint = load_checkpoint(run.checkpoint)  # refuses any weight that is not float32
        assert checkpoint.provenance["training"]["precision"] == name


def test_equal_seeds_give_equal_bytes_and_others_do_not(digits: Dataset, tmp_path: Path) -> None:
    runs = [Run(tmp_path / name) for name in "abc"]
    for run, seed in zip(runs, (1, 1, 2), strict=True):
        torch.rand(7)  # whatever happened before in this process
        do(digits, run, seed=seed)
    first, second, third = (run.checkpoint.read_bytes() for run in runs)
    assert first == second
    assert first != third


def test_beta_changes_the_weights_and_not_the_meaning_of_the_scores(digits: Dataset, run: Run) -> None:
    do(digits, run, beta=50.0)
    score = metrics(run)[-1]["test"]
    parts = score["reconstruction_nats_per_image"] + score["kl_nats_per_image"]
    assert score["negative_elbo_nats_per_image"] == pytest.approx(parts)


@pytest.mark.parametrize(("kind", "raised"), [(KeyboardInterrupt, Interrupted), (Terminated, Terminated)])
def test_a_stop_within_the_first_epoch_saves_the_weights_at_hand(
    digits: Dataset, run: Run, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException], raised: type[BaseException]
) -> None:
    def stop(*arguments: object) -> None:
        if arguments[2] == 3:  # steps
            raise kind

    monkeypatch.setattr(Report, "step", stop)
    with pytest.raises(raised, match=r"after 3 steps, the best checkpoint is .*checkpoint.safetensors"):
        do(digits, run)
    assert load_checkpoint(run.checkpoint).provenance["steps"] == 3
    assert metrics(run) == []


def test_a_stop_before_the_first_step_saves_nothing_and_leaves_the_folder_free(
    digits: Dataset, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "loss", stop)
    with pytest.raises(Interrupted, match="nothing to save yet"):
        do(digits, run)
    assert not run.checkpoint.exists()
    check_out(run, force=False)


def test_a_second_stop_is_immediate(digits: Dataset, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Report, "step", stop)
    monkeypatch.setattr(session, "evaluate", stop)
    with pytest.raises(KeyboardInterrupt) as raised:
        do(digits, run)
    assert raised.type is KeyboardInterrupt


@pytest.mark.parametrize("family", ["mlp", "post", "conv"])
def test_a_loss_that_is_not_finite_stops_with_the_epoch_and_keeps_the_last_good_checkpoint(
    digits: Dataset, run: Run, monkeypatch: pytest.MonkeyPatch, family: Family
) -> None:
    real, steps = loop.loss, iter(range(100))

    def poisoned(model: torch.nn.Module, *arguments: torch.Tensor, beta: float) -> torch.Tensor:
        if next(steps) == 6:  # in the second epoch
            for parameter in model.parameters():
                torch.nn.init.constant_(parameter, torch.nan)
        return real(model, *arguments, beta=beta)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "loss", poisoned)
    with pytest.raises(InputError, match=r"^training diverged: epoch 2; .*--learning-rate"):
        do(digits, run, family=family)
    assert load_checkpoint(run.checkpoint).provenance["epoch"] == 1


def test_an_earlier_run_is_refused_and_with_force_replaced_whole(digits: Dataset, run: Run) -> None:
    do(digits, run)
    old = run.checkpoint.read_bytes()
    run.export.mkdir()
    (run.export / "decoder.onnx").write_text("of the earlier training")
    (run.folder / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError):
        do(digits, run)
    assert run.checkpoint.read_bytes() == old
    do(digits, run, force=True, epochs=1)
    assert not run.export.exists()
    assert len(metrics(run)) == 1
    assert (run.folder / "notes.txt").read_text() == "mine"
    assert run.previous_checkpoint.read_bytes() == old


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_no_run_is_never_replaced(digits: Dataset, tmp_path: Path, force: bool) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError):
        do(digits, Run(tmp_path), force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UsageError, match="not a folder"):
        check_out(Run(tmp_path / "run"), force=True)


def test_fewer_images_than_a_batch_are_refused(digits: Dataset, run: Run) -> None:
    with pytest.raises(DataError, match="fewer images than a batch"):
        Session(options(batch_size=257), run, digits, CPU)
