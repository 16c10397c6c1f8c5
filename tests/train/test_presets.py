"""Presets are valid options of the command, and typed options override them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.train.conftest import Cli, Invoke, one_line
from train import recipes
from train.recipes import preset_names, read_preset
from vae_export.errors import InputError
from vae_export.models.checkpoint import load_checkpoint
from vae_export.models.config import usual_latent_size
from vae_export.runs import Run


def test_presets_are_listed(cli: Cli) -> None:
    assert preset_names() == sorted(["blog", "mnist", "mnist-best", "burda", "manifold-2d", "photos", "photos-detail"])
    listed = cli("train", "--list-presets")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == preset_names()


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name.startswith("photos") else name for name in preset_names()],
)
def test_every_preset_trains_and_typed_options_override_it(invoke: Invoke, tmp_path: Path, name: str) -> None:
    tiny = ["--dataset", "digits", "--epochs", 1, "--hidden-size", 16, "--threads", 1, "--seed", 7]
    done = invoke("train", "--preset", name, *tiny, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    checkpoint = load_checkpoint(Run(tmp_path / "run").checkpoint)
    options, training = read_preset(name).options, checkpoint.provenance["training"]
    assert checkpoint.config.family == options["family"]
    assert checkpoint.config.hidden_size == 16
    assert checkpoint.config.latent_size == options.get(
        "latent-size", usual_latent_size(options["family"], checkpoint.config.image_shape)
    )
    assert (training["epochs"], training["seed"]) == (1, 7)
    assert checkpoint.provenance["data"]["protocol"] == options.get("data-protocol", "grey")
    for option, key in (("batch-size", "batch_size"), ("epsilon", "epsilon"), ("weight-average", "weight_average")):
        if option in options:
            assert training[key] == options[option]


def test_burda_preset_is_the_recipe_of_the_paper() -> None:
    from train.recipes import parse_stages

    options = read_preset("burda").options
    rates = [1e-3, 7.2e-4, 5.2e-4, 3.7e-4, 2.7e-4, 1.9e-4, 1.4e-4, 1e-4]
    assert parse_stages(options["stages"]) == tuple((3**i, rate) for i, rate in enumerate(rates))
    assert sum(epochs for epochs, _ in parse_stages(options["stages"])) == 3280
    shape = options["hidden-size"], options["latent-size"], options["activation"]
    assert (*shape, options["batch-size"], options["epsilon"]) == (200, 50, "tanh", 20, 1e-4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("summary = 3\n[options]", "preset cannot be read"),
        ("[options]\n", "preset cannot be read"),
        ("summary = 'x'\noptions = 1", "preset cannot be read"),
        ("not toml", "preset cannot be read"),
    ],
)
def test_malformed_preset_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    (tmp_path / "mine.toml").write_text(text)
    monkeypatch.setattr(recipes, "PRESET_FOLDER", tmp_path)
    with pytest.raises(InputError, match=said):
        read_preset("mine")


def test_preset_with_unknown_option_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> None:
    (tmp_path / "mine.toml").write_text("summary = 'x'\n[options]\nwings = 2\n")
    monkeypatch.setattr(recipes, "PRESET_FOLDER", tmp_path)
    outcome = invoke("train", "--preset", "mine")
    assert outcome.code == 3
    assert "preset has unknown options: mine; got wings" in one_line(outcome.err)


def test_preset_value_of_wrong_type_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke: Invoke
) -> None:
    (tmp_path / "mine.toml").write_text("summary = 'x'\n[options]\nepochs = 'many'\n")
    monkeypatch.setattr(recipes, "PRESET_FOLDER", tmp_path)
    outcome = invoke("train", "--preset", "mine")
    assert outcome.code == 2
