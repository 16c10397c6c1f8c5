"""Threads and precision are chosen by measurement; a tie goes to fewer threads and more bits."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import Outcome
from tests.train.conftest import TINY
from train import autotune
from train.autotune import AutotuneResult, StepConfig, fastest_config, step_configs
from vae_export.models.checkpoint import load_checkpoint
from vae_export.runs import Run

ONE, TWO = StepConfig(1, "float32"), StepConfig(2, "float32")
HALF = StepConfig(1, "bfloat16")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({ONE: 0.004, TWO: 0.002, HALF: 0.001}, HALF),
        ({ONE: 0.002, TWO: 0.012, HALF: 0.012}, ONE),
        ({ONE: 0.0100, TWO: 0.0097, HALF: 0.0096}, ONE),
    ],
    ids=["pays", "does not pay", "hardly pays"],
)
def test_fastest_config_is_chosen_if_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[StepConfig, float], expected: StepConfig
) -> None:
    now = 0.0

    def step(way: StepConfig) -> None:
        nonlocal now
        now += seconds[way]

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    found = fastest_config(list(seconds), step)
    assert found.config == expected
    assert found.seconds == pytest.approx(seconds)


@pytest.mark.slow
def test_autotune_ends_soon_and_restores_the_threads() -> None:
    before, started = torch.get_num_threads(), time.perf_counter()
    assert fastest_config([ONE, TWO], lambda way: time.sleep(0.4 * way.threads)).config == ONE
    assert torch.get_num_threads() == before
    assert time.perf_counter() - started < 10


def test_autotune_does_not_measure_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert step_configs(3, "bfloat16", bfloat16=False) == [StepConfig(3, "bfloat16")]
    assert step_configs(None, "float32", bfloat16=True) == [StepConfig(1, "float32"), StepConfig(4, "float32")]
    assert step_configs(2, None, bfloat16=True) == [StepConfig(2, "float32"), StepConfig(2, "bfloat16")]
    assert step_configs(2, None, bfloat16=False) == [StepConfig(2, "float32")]


@pytest.mark.slow
def test_choice_is_printed_and_recorded(
    invoke: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.pictures.draw_pictures", lambda *_: None)
    monkeypatch.setattr(autotune, "has_bfloat16_instructions", lambda _: True)

    def scripted(candidates: list[StepConfig], step: Callable[[StepConfig], object]) -> AutotuneResult:
        for way in candidates:
            step(way)  # real steps
        return AutotuneResult(candidates[-1], dict.fromkeys(candidates, 0.5))

    monkeypatch.setattr(autotune, "fastest_config", scripted)
    run = Run(tmp_path / "run")
    done = invoke("train", *TINY, "--precision", "auto", "--epochs", 1, "--out", run.folder)
    assert done.code == 0, done.err
    said = "computing with 1 thread in bfloat16; images/s: 128 with 1 thread in float32, 128 with 1 thread in bfloat16"
    assert said in done.err
    training = load_checkpoint(run.checkpoint).provenance["training"]
    assert (training["precision"], training["threads"]) == ("bfloat16", 1)
    assert '"precision": "bfloat16", "threads": 1' in run.metrics.read_text()
