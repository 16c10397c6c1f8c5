"""What a training is a function of, and what changes its rounding alone: by these a resume knows it as the same.

Both are flat, so that a difference has a name and two values.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from vae_export import __version__
from vae_export.errors import DataError, UsageError
from vae_export.models import VAEConfig

Flat = dict[str, Any]


def settings(config: VAEConfig, data: Mapping[str, Any], training: Mapping[str, Any]) -> Flat:
    """All that the weights are a function of; `data` is `Dataset.to_json()`, `training` options by their names."""
    pixels = {"dataset": data["name"], **{key: data[key] for key in ("protocol", "images", "sha256")}}
    flat: Flat = json.loads(json.dumps(config.to_json() | pixels | dict(training)))  # as it will be read again
    return flat


def surroundings(device: torch.device, *, compiled: bool = False, processes: int = 1) -> Flat:
    """Sums are split among threads and processes, and versions and compilers differ in how they compute them: results
    agree within rounding."""
    found = {"device": device.type, "torch": torch.__version__, "python": platform.python_version()}
    found |= {"compiled": "yes" if compiled else "no", "processes": str(processes)}
    if device.type == "cpu":
        found["threads"] = str(torch.get_num_threads())
    return found | {"vae-export": __version__}


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], *, where: object, epochs: int) -> None:
    """Refuse to go on with other settings, after so many epochs.

    The number of epochs may change where the learning rate does not depend on it: nothing that was done would have been
    done otherwise. Raises `UsageError` naming both values of each, `DataError` for other images.
    """
    other = {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
    if "epochs" in other and now.get("learning_rate_schedule") != "one-cycle" and now["epochs"] >= epochs:
        other.remove("epochs")
    if not other:
        return
    if other <= {"sha256", "images"}:
        raise DataError(
            "not the images that the training began with",
            where=now["dataset"],
            expected=f"SHA-256 {before.get('sha256')}",
            got=now["sha256"],
        )
    other -= {"sha256", "images"}
    raise UsageError(
        "resume would be another training",
        where=where,
        expected=", ".join(f"{name} {_shown(before.get(name))}" for name in sorted(other)),
        got=", ".join(f"{name} {_shown(now.get(name))}" for name in sorted(other)),
        do="leave these options out, or train anew with another --out",
    )


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What of the surroundings is another, a few words each."""
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            yield f"{name} {_shown(before.get(name))} → {_shown(now.get(name))}"


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
