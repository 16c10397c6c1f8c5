"""How a part runs best on one machine, as `tune` found it and a manifest states it. No torch and no engine in here.

docs/bundle-format.md, section 3, has the JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vae_export.contract import PARTS, Part
from vae_export.errors import IntegrityError

if TYPE_CHECKING:
    from vae_export.manifest import FileEntry

#: The format whose files the runtime runs: the others load programs, or are checked by nobody.
RUNTIME_FORMAT = "onnx"
#: What of ONNX Runtime's session options departs from its defaults, by name; `runtime.session` does it.
SWITCHES = ("no-spinning", "parallel", "no-arena", "no-pattern")
#: ONNX Runtime's levels of graph optimisation; the last is its default.
LEVELS = ("disabled", "basic", "extended", "all")
_MOST_THREADS = 1024


@dataclass(frozen=True)
class Recommendation:
    """Attributes:
    part: which graph.
    file, sha256: the ONNX file, and its bytes: a recommendation is of what was measured.
    provider: of ONNX Runtime.
    threads: within an operator; 0 lets ONNX Runtime choose.
    optimisation: one of `LEVELS`.
    switches: some of `SWITCHES`.
    batch: rows of the calls that it was the quickest for.
    p50_seconds: of such a call.
    speedup: the time of the runtime's defaults over this one's; 1 where they are the same.
    budget: what the file was allowed to cost: `max_grey_levels`, `max_nats`, each a number or null.
    machine: that it was measured on, see `vae_export.bench.machine.identity`.
    """

    part: Part
    file: str
    sha256: str
    provider: str
    threads: int
    optimisation: str
    switches: tuple[str, ...]
    batch: int
    p50_seconds: float
    speedup: float
    budget: Mapping[str, float | None]
    machine: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"switches": list(self.switches)}

    @property
    def words(self) -> str:
        """The settings, for a person."""
        return words(self.provider, self.threads, self.optimisation, self.switches)


def words(provider: str, threads: int, optimisation: str, switches: Iterable[str]) -> str:
    """Settings of a session for a person; what is ONNX Runtime's default is not mentioned."""
    count = f"{threads} thread{'' if threads == 1 else 's'}" if threads else "default threads"
    level = [] if optimisation in ("", LEVELS[-1]) else [f"optimisation {optimisation}"]
    return ", ".join([provider, count, *level, *switches])


def parse(items: Any, files: Iterable[FileEntry]) -> tuple[Recommendation, ...]:
    """What a manifest recommends.

    Raises `IntegrityError` for what names a file that is not there or has other bytes, and for settings that do not
    exist; `KeyError`, `TypeError` or `ValueError` for what is no recommendation at all.
    """
    if not isinstance(items, list):
        raise TypeError("recommended is no list")
    found = tuple(_one(item, list(files)) for item in items)
    if len({item.part for item in found}) != len(found):
        raise IntegrityError("a part has two recommendations", got=[item.part for item in found])
    return found


def _one(item: Mapping[str, Any], files: list[FileEntry]) -> Recommendation:
    # Keys that a later version added are ignored, as everywhere in the manifest.
    known = {key: item[key] for key in Recommendation.__annotations__}
    found = Recommendation(**(known | {"switches": tuple(item["switches"])}))
    for name in ("p50_seconds", "speedup"):
        _check(name, type(value := getattr(found, name)) in (int, float) and value > 0, value)
    _check("part", found.part in PARTS, found.part)
    _check("provider", type(found.provider) is str and found.provider.isalnum(), found.provider)
    _check("threads", type(found.threads) is int and 0 <= found.threads <= _MOST_THREADS, found.threads)
    _check("batch", type(found.batch) is int and found.batch >= 1, found.batch)
    _check("optimisation", found.optimisation in LEVELS, found.optimisation)
    unknown = set(map(str, found.switches)) - set(SWITCHES)
    _check("switches", not unknown and len(set(found.switches)) == len(found.switches), found.switches)
    for name in ("budget", "machine"):
        _check(name, isinstance(getattr(found, name), dict), getattr(found, name))
    entry = next((entry for entry in files if entry.name == found.file), None)
    if entry is None or (entry.part, entry.format) != (found.part, RUNTIME_FORMAT):
        expected = f"an {RUNTIME_FORMAT} file of {found.part}"
        raise IntegrityError("recommended file is not one that can be run", where=str(found.file), expected=expected)
    if entry.sha256 != found.sha256:
        raise IntegrityError(
            "recommendation is of another file",
            where=found.file,
            expected=f"SHA-256 {entry.sha256}",
            got=str(found.sha256)[:80],
            do="run: vae-export tune",
        )
    return found


def _check(name: str, is_right: bool, got: object) -> None:
    if not is_right:
        raise IntegrityError(f"recommended {name} does not exist", got=str(got)[:80], do="run: vae-export tune")
