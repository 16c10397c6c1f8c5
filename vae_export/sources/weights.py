"""Read weights that users saved, and fit them to their modules: prefixes, nested entries, several files.

No pickled code is run: `.pt`, `.pth`, `.ckpt` and `.bin` are read with `weights_only`, which allows tensors and plain
containers only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vae_export.errors import ModelError, UsageError
from vae_export.sources.memory import check_memory

#: What wrappers put before or into names of weights.
_WRAPPERS = re.compile(r"(^|\.)(?:module|_orig_mod|_forward_module)(?=\.)")
#: Entries that hold weights, in the order in which they are preferred: training weights before averaged ones.
_ENTRIES = ("state_dict", "model_state_dict", "model", "vae", "autoencoder", "net", "network", "weights", "params")
#: Levels of entries in entries that are looked at.
_DEPTH = 2
#: Misfits that a message lists of each kind.
_LISTED = 4
_PICKLES = (".pt", ".pth", ".ckpt", ".bin")

#: Weights by name, and other entries by name.
Tree = Mapping[str, Any]


def load_weights(module: nn.Module, files: Mapping[str, str], key: str | None) -> list[str]:
    """Load weights into a module.

    Args:
        module: the module; children "encoder" and "decoder" where there are two files.
        files: files by "encoder" or "decoder", or "" for all of the module.
        key: the entry of each file to read, a dotted path; None finds the one that fits.

    Returns:
        Notes on what was chosen.

    Raises:
        ModelError: a file cannot be read, or its names or shapes do not fit.
        UsageError: an entry that is not there.
    """
    if "" in files and len(files) > 1:
        raise UsageError("--weights FILE and --weights PART=FILE exclude each other", got=", ".join(files.values()))
    notes: list[str] = []
    for part, name in files.items():
        target = module
        if part:
            child = getattr(module, part, None)
            if not isinstance(child, nn.Module):
                raise UsageError(f"model has no {part} of its own", where=f"--weights {part}=", do="pass one file")
            target = child
        path = Path(name)
        notes += _load_file(target, path, read_tree(path), key)
    return notes


def read_tree(path: Path) -> Tree:
    """Return the contents of a file of weights.

    Raises:
        ModelError: the file is missing, is of no known kind, holds pickled code, or is larger than memory.
    """
    if not path.is_file():
        raise ModelError("no such file of weights", where=path)
    check_memory(path, path.stat().st_size)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError("file of weights cannot be read", where=path, got=error) from error
    if path.suffix not in _PICKLES:
        expected = f"a name in .safetensors, {', '.join(_PICKLES)}"
        raise ModelError("unknown kind of weights", where=path, expected=expected, got=path.suffix or "no ending")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251  # weights_only runs no pickles
    except Exception as error:  # torch raises whatever its unpickler and its archive reader raise
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ModelError(
                "file holds pickled code, which is never run",
                where=path,
                got=found[1],
                do="save the state_dict() of the module instead of the module",
            ) from error
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError("file of weights cannot be read", where=path, got=first) from error
    if not isinstance(loaded, Mapping):
        raise ModelError("not a state_dict", where=path, expected="tensors by name", got=type(loaded).__name__)
    return loaded


def _load_file(module: nn.Module, path: Path, tree: Tree, key: str | None) -> list[str]:
    """Load the entry that fits; return a note if there were others."""
    trees = {key: _entry(tree, key, path)} if key is not None else dict(_entries(tree))
    wanted = module.state_dict()
    fits = {name: _fit(wanted, _flat(entry)) for name, entry in trees.items()}
    good = [name for name, (_, misfits) in fits.items() if not misfits]
    if not good:
        name = min(fits, key=lambda name: sum(map(len, fits[name][1].values())))
        entry = f", entry '{name}'" if name else ""
        listed = "; ".join(_listed(what, names) for what, names in fits[name][1].items())
        others = [other for other in trees if other not in ("", name)]
        do = f"or choose another entry with --weights-key {' | '.join(others)}" if others and key is None else None
        raise ModelError("weights do not fit the model", where=f"{path}{entry}", got=listed, do=do)
    chosen = good[0]
    module.load_state_dict(fits[chosen][0], strict=True)
    others = [name for name in good[1:] if name]
    if key is not None or not others:
        return []
    return [f"weights: entry '{chosen or 'top'}' of {path.name}; --weights-key takes {' or '.join(others)} instead"]


def _entry(tree: Tree, key: str, path: Path) -> Tree:
    """Return the entry at a dotted path."""
    entry: Any = tree
    for name in [key] if key in tree else key.split("."):
        if not isinstance(entry, Mapping) or name not in entry:
            have = " | ".join(name for name, _ in _entries(tree) if name) or "one entry"
            raise UsageError("no such entry of the weights", where=f"{path}, --weights-key", expected=have, got=key)
        entry = entry[name]
    if not isinstance(entry, Mapping):
        raise UsageError("entry holds no weights", where=f"{path}, --weights-key", got=key)
    return entry


def _entries(tree: Tree, path: str = "") -> Iterator[tuple[str, Tree]]:
    """Yield a file of weights and the entries in it that hold weights, the usual ones first.

    A file of entries alone comes after them: {"encoder": …, "decoder": …} is one state_dict, and {"model": …, "ema": …}
    is two.
    """
    has_weights = any(isinstance(value, Tensor) for value in tree.values())
    if has_weights:
        yield path, tree
    if path.count(".") < _DEPTH:
        names = [str(name) for name, value in tree.items() if isinstance(value, Mapping) and "optim" not in str(name)]
        order = {name: number for number, name in enumerate(_ENTRIES)}
        for name in sorted(names, key=lambda name: order.get(name, len(order))):
            yield from _entries(tree[name], f"{path}.{name}" if path else name)
    if not has_weights:
        yield path, tree


def _flat(tree: Tree, prefix: str = "") -> dict[str, Tensor]:
    """Return all tensors of a tree by dotted names, so that {"encoder": {…}, "decoder": {…}} is one state_dict."""
    found: dict[str, Tensor] = {}
    for name, value in tree.items():
        if isinstance(value, Tensor):
            found[f"{prefix}{name}"] = value
        elif isinstance(value, Mapping):
            short = re.sub(r"_?(state_?dict|weights|model)$", "", str(name)) or str(name)
            found |= _flat(value, f"{prefix}{short}.")
    return found


def _fit(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Return weights by the names that a module wants, and the misfits by kind.

    Wrappers' names are removed, and the prefix under which the module's names lie. What lies beside that prefix belongs
    to other modules, such as a discriminator, and is left alone.
    """
    best: tuple[dict[str, Tensor], dict[str, list[str]]] | None = None
    for candidate in _renamed(wanted, given):
        missing = [name for name in wanted if name not in candidate]
        unexpected = [name for name in candidate if name not in wanted]
        shapes = [
            f"{name} {tuple(candidate[name].shape)} for {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in candidate and not _is_lazy(tensor) and candidate[name].shape != tensor.shape
        ]
        kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
        found = candidate, {what: names for what, names in kinds.items() if names}
        if best is None or _count(found[1]) < _count(best[1]):
            best = found
    return best or ({}, {"missing": list(wanted)})


def _renamed(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield the weights under the names that the module may know them by."""
    yield dict(given)
    bare = {_WRAPPERS.sub(r"\1", name).replace("..", ".").lstrip("."): tensor for name, tensor in given.items()}
    yield bare
    if not wanted:
        return
    first = next(iter(wanted))
    for names in (given, bare):
        for name in names:
            if name.endswith(f".{first}"):
                prefix = name.removesuffix(first)
                yield {key.removeprefix(prefix): tensor for key, tensor in names.items() if key.startswith(prefix)}
    parts = {name.partition(".")[0] for name in wanted}
    if parts == {"encoder", "decoder"}:  # entries such as enc and dec, or Encoder and Decoder
        words = {"enc": "encoder", "dec": "decoder"}
        yield {
            f"{words.get(head.lower()[:3], head)}.{rest}": tensor
            for (head, _, rest), tensor in ((name.partition("."), tensor) for name, tensor in bare.items())
        }


def _is_lazy(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.parameter.UninitializedParameter | nn.parameter.UninitializedBuffer)


def _count(misfits: Mapping[str, list[str]]) -> int:
    return sum(map(len, misfits.values()))


def _listed(what: str, names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{what} {', '.join(names[:_LISTED])}{more}"
