"""Training sessions, in this process on a few digits: which weights they save, replace and refuse."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from train import session, trainer
from train.config import DATA_PROTOCOLS, DataOptions, DataProtocol, NetworkOptions, ObjectiveOptions, TrainOptions
from train.data.datasets import Dataset, apply_protocol, evaluated_pixels, load
from train.distributed import Processes
from train.loss import LossTerms, weighted_loss
from train.progress import TrainingProgress, show_progress
from train.recipes import RecipeOptions
from train.results import ScoreKind
from train.resume import SavedCheckpoint, load_state
from train.run_folder import check_out, new_run
from train.scoring import PyTorchModel, evaluate_model
from train.session import TrainingSession
from vae_export.errors import DataError, InputError, Interrupted, OutputExistsError, Terminated, UsageError
from vae_export.likelihood import LIKELIHOODS, Likelihood, LikelihoodName
from vae_export.models import FAMILIES
from vae_export.models.checkpoint import load_checkpoint
from vae_export.models.config import Family
from vae_export.runs import Run

CPU = torch.device("cpu")
#: Residual networks take a second or two for what the others take a tenth of.
COSTLY = ("residual", "resnet", "pyramid")
FAMILIES_BY_COST = [pytest.param(family, marks=pytest.mark.slow) if family in COSTLY else family for family in FAMILIES]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    whole = load(DataOptions("digits"))
    return Dataset("digits", whole.train[:256], whole.validation[:64], whole.test[:80])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


GROUPS = {"network": NetworkOptions, "objective": ObjectiveOptions, "recipe": RecipeOptions}


def options(**changes: object) -> TrainOptions:
    """Return options of a tiny training; each change goes to the group of options that has its name."""
    asked = {"latent_size": 3, "hidden_size": 16, "epochs": 3, "batch_size": 64, "threads": 1} | changes
    groups = {}
    for name, group in GROUPS.items():
        ours = {field.name for field in fields(group)} & asked.keys()
        groups[name] = group(**{key: asked.pop(key) for key in ours})
    return TrainOptions(DataOptions("digits"), **groups, **asked)  # type: ignore[arg-type]


def kind_of(images: Dataset) -> ScoreKind:
    return ScoreKind(images.protocol, Likelihood(), images.image_shape)


def do(digits: Dataset, run: Run, *, force: bool = False, **changes: object) -> SavedCheckpoint:
    with new_run(run, force=force), show_progress(epochs=3, steps=4, batch_size=64, kind=kind_of(digits)) as report:
        return TrainingSession(options(**changes), run, digits, CPU).train(report)


def metrics(run: Run) -> list[dict[str, dict[str, float]]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


@pytest.mark.parametrize("family", FAMILIES_BY_COST)
def test_every_family_learns_and_saves_the_scored_weights(digits: Dataset, run: Run, family: Family) -> None:
    saved = do(digits, run, family=family)
    lines = metrics(run)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    key = "negative_elbo_nats_per_image"
    assert lines[-1]["train"][key] < lines[0]["train"][key]
    checkpoint = load_checkpoint(run.checkpoint)
    again = evaluate_model(PyTorchModel(checkpoint.model()), digits.test)
    # Its weights lie in another order: `conv` rounds otherwise.
    assert again.negative_elbo == pytest.approx(saved.test.negative_elbo, rel=1e-6)
    assert again.active_units == saved.test.active_units
    assert torch.equal(checkpoint.examples, digits.test[:256])
    assert checkpoint.provenance["scores"]["test"] == saved.test.to_json()
    assert str(run.folder.parent) not in json.dumps(checkpoint.provenance)


def test_best_epoch_is_chosen_by_validation_images_alone(
    digits: Dataset, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = evaluate_model, iter([5, 300, 30, 5, 100, 20, 5, 200, 10])  # train, validation, test of three epochs

    def scripted(model: PyTorchModel, pixels: torch.Tensor, *, processes: Processes) -> object:
        score = real(model, pixels, processes=processes)
        return type(score)(**{**vars(score), "negative_elbo": float(next(calls))})

    monkeypatch.setattr(session, "evaluate_model", scripted)
    saved = do(digits, run)
    assert (saved.epoch, saved.steps) == (2, 8)
    assert saved.validation.negative_elbo == 100
    assert load_checkpoint(run.checkpoint).provenance["epoch"] == 2
    assert load_checkpoint(run.previous_checkpoint).provenance["epoch"] == 1


@pytest.mark.parametrize("protocol", DATA_PROTOCOLS)
def test_protocol_is_recorded_beside_every_score(digits: Dataset, run: Run, protocol: DataProtocol) -> None:
    saved = do(apply_protocol(digits, protocol), run, epochs=1)
    provenance = load_checkpoint(run.checkpoint).provenance
    assert (provenance["data"]["protocol"], provenance["likelihood"]) == (protocol, {"name": "bernoulli"})
    assert (metrics(run)[0]["protocol"], metrics(run)[0]["likelihood"]) == (protocol, "bernoulli")
    test = evaluated_pixels(apply_protocol(digits, protocol), "test")
    again = evaluate_model(PyTorchModel(load_checkpoint(run.checkpoint).model()), test)
    assert again.negative_elbo == pytest.approx(saved.test.negative_elbo, rel=1e-6)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_likelihood_learns(digits: Dataset, run: Run, name: LikelihoodName) -> None:
    do(digits, run, likelihood=name, epochs=4, activation="silu")
    first, *_, last = (line["train"]["negative_elbo_nats_per_image"] for line in metrics(run))
    assert last < first
    kept = "discretised-logistic" if name == "discretised-logistic-colour" else name  # these images have no colours
    assert load_checkpoint(run.checkpoint).config.likelihood.name == kept


def test_average_of_the_weights_is_scored_and_saved(digits: Dataset, run: Run) -> None:
    with new_run(run, force=False), show_progress(epochs=1, steps=4, batch_size=64, kind=kind_of(digits)) as report:
        session = TrainingSession(options(weight_average=0.5, epochs=1), run, digits, CPU)
        start, weights = session.trainer.model.encoder.mean.weight.detach().clone(), []
        step = report.step

        def watch(epoch: int, batch: int, total: torch.Tensor) -> None:
            weights.append(session.trainer.model.encoder.mean.weight.detach().clone())
            step(epoch, batch, total)

        report.step = watch  # type: ignore[assignment, method-assign]
        session.train(report)
    assert session.trainer.average is not None
    expected = start
    for steps, weight in enumerate(weights):
        decay = min(0.5, (1 + steps) / (10 + steps))
        expected = decay * expected + (1 - decay) * weight
    kept = load_checkpoint(run.checkpoint).weights["encoder.mean.weight"]
    torch.testing.assert_close(kept, expected)
    assert not torch.allclose(kept, weights[-1])


def test_kl_warmup_starts_at_weight_zero(digits: Dataset, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real, betas = weighted_loss, []

    def watched(reconstruction: torch.Tensor, units: torch.Tensor, *, beta: float, **others: Any) -> torch.Tensor:
        betas.append(beta)
        return real(reconstruction, units, beta=beta, **others)

    monkeypatch.setattr(trainer, "weighted_loss", watched)
    do(digits, run, kl_warmup=2.0, beta=3.0)  # four steps an epoch
    assert betas == pytest.approx([3 * min(1, step / 8) for step in range(12)])


def test_bfloat16_is_recorded_and_weights_stay_float32(digits: Dataset, tmp_path: Path) -> None:
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


def test_beta_is_in_the_loss_and_not_in_the_scores(digits: Dataset, run: Run) -> None:
    do(digits, run, beta=50.0)
    score = metrics(run)[-1]["test"]
    parts = score["reconstruction_nats_per_image"] + score["kl_nats_per_image"]
    assert score["negative_elbo_nats_per_image"] == pytest.approx(parts)


STOPS = [(signal.SIGINT, Interrupted), (signal.SIGTERM, Terminated)]


def send(number: int, *, at: int) -> Callable[..., None]:
    """Return a replacement for `TrainingProgress.step` that sends this process a signal at a step of each epoch."""

    def step(_report: object, _epoch: int, step: int, _total: torch.Tensor) -> None:
        if step == at:
            os.kill(os.getpid(), number)

    return step


@pytest.mark.parametrize(("number", "raised"), STOPS)
def test_stop_in_the_first_epoch_saves_the_current_weights(
    digits: Dataset, run: Run, monkeypatch: pytest.MonkeyPatch, number: int, raised: type[BaseException]
) -> None:
    before = signal.getsignal(number)
    monkeypatch.setattr(TrainingProgress, "step", send(number, at=2))
    with pytest.raises(raised, match=r"after 3 steps, the best checkpoint is .*checkpoint.safetensors.*--resume"):
        do(digits, run)
    assert load_checkpoint(run.checkpoint).provenance["steps"] == 3
    assert (load_state(run).steps_done, load_state(run).saved) == (3, None)
    assert metrics(run) == []
    assert signal.getsignal(number) is before


def test_stop_while_scoring_takes_effect_at_once(digits: Dataset, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = evaluate_model, []

    def stop_once(model: PyTorchModel, pixels: torch.Tensor, *, processes: Processes) -> object:
        calls.append(len(pixels))
        if len(calls) == 5:  # the validation images, after the second epoch
            os.kill(os.getpid(), signal.SIGINT)
        return real(model, pixels, processes=processes)

    monkeypatch.setattr(session, "evaluate_model", stop_once)
    with pytest.raises(Interrupted, match="after 8 steps"):
        do(digits, run)
    assert len(calls) == 5
    assert (load_state(run).steps_done, load_state(run).epochs) == (8, 1)


def test_second_signal_is_immediate(digits: Dataset, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real, steps = weighted_loss, []

    def twice(*terms: torch.Tensor, **weights: Any) -> torch.Tensor:
        steps.append(len(steps))
        if len(steps) == 6:  # within the second epoch
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return real(*terms, **weights)

    monkeypatch.setattr(trainer, "weighted_loss", twice)
    with pytest.raises(KeyboardInterrupt) as raised:
        do(digits, run)
    assert raised.type is KeyboardInterrupt
    assert (load_state(run).steps_done, load_state(run).epochs) == (4, 1), "the last that was whole"


@pytest.mark.parametrize("family", FAMILIES_BY_COST)
def test_nonfinite_loss_stops_and_keeps_the_last_checkpoint(
    digits: Dataset, run: Run, monkeypatch: pytest.MonkeyPatch, family: Family
) -> None:
    real, steps = LossTerms.forward, iter(range(100))

    def poisoned(terms: LossTerms, image: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if next(steps) == 6:  # in the second epoch
            for parameter in terms.parameters():
                torch.nn.init.constant_(parameter, torch.nan)
        return real(terms, image, noise)

    monkeypatch.setattr(LossTerms, "forward", poisoned)
    with pytest.raises(InputError, match=r"^training diverged: epoch 2; .*--learning-rate"):
        do(digits, run, family=family)
    assert load_checkpoint(run.checkpoint).provenance["epoch"] == 1


def test_earlier_run_is_refused_and_with_force_replaced(digits: Dataset, run: Run) -> None:
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
def test_folder_that_is_not_a_run_is_never_replaced(digits: Dataset, tmp_path: Path, force: bool) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError):
        do(digits, Run(tmp_path), force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_file_in_place_of_the_run_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UsageError, match="not a folder"):
        check_out(Run(tmp_path / "run"), force=True)


def test_fewer_images_than_a_batch_are_refused(digits: Dataset, run: Run) -> None:
    with pytest.raises(DataError, match="fewer images than a batch; .*; pass --batch-size 256, or less"):
        TrainingSession(options(batch_size=257), run, digits, CPU)
