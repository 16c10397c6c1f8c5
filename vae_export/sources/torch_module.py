"""A user's own modules: a function that returns them, in a package or a file, and the files of their weights.

The function gives a VAE with methods `encode` and `decode` or with children `encoder` and `decoder`, or the pair
(encoder, decoder). Its code runs because the user named it. Latent, encoding, range and sizes that are not stated are
inferred by running the modules on examples.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from vae_export.contract import Contract, Part, PartSpec
from vae_export.errors import ModelError, UsageError, VaeExportError
from vae_export.io.atomic import sha256
from vae_export.sources.base import Source, described
from vae_export.sources.inference import CANNOT_RUN, Inference, infer_contract
from vae_export.sources.module_calls import MethodModule, taking_by_name
from vae_export.sources.module_outputs import Leaf, find_leaves, follow_path
from vae_export.sources.module_runs import (
    as_example,
    check_weights_stay,
    flat_or_not,
    inputs_for,
    listed_or_not,
    run_flat_or_not,
    run_listed_or_not,
    unwrapped,
    weight_sums,
)
from vae_export.sources.options import ModelOptions
from vae_export.sources.recognition import UNCLEAR
from vae_export.sources.weights import load_weights
from vae_export.sources.whole_model import (
    check_decoder_remembers_nothing,
    check_decoder_runs_alone,
    meanings_by_forward,
    meanings_that_forward_shows,
)
from vae_export.system.torchvision_operators import import_torchvision

#: The most functions of a file that a message lists.
_LISTED = 8
#: How many sizes of a batch are tried, and the largest of them, where a module refuses the usual one.
_TRIED_BATCHES, _LARGEST_BATCH = 12, 1024


def open_function(text: str, options: ModelOptions) -> Source:
    """Return the modules that a function gives as a source.

    Args:
        text: package.module:function or file.py:function.
        options: what is stated; `data_shape` is needed.

    Raises:
        UsageError: there is no such function, it needs arguments, or the shape of the data is missing.
        ModelError: it fails or gives no module, weights do not fit, or what the modules return is not clear.
    """
    returned = _call(text)
    if isinstance(returned, nn.Module):
        returned = unwrapped(returned)
    holder, encoder, decoder = _modules(returned, text)
    notes = load_weights(holder, options.weights or {}, options.weights_key)
    _check_weights(holder, text)
    if decoder is not None and options.decoder_output is not None:
        method = decoder if isinstance(decoder, MethodModule) else MethodModule(decoder)
        decoder = method.changed(output=options.decoder_output)
    if encoder is not None:
        encoder = taking_by_name(encoder, 1, options.conditions)
    if decoder is not None:
        decoder = taking_by_name(decoder, options.latents, options.conditions)
    sums = weight_sums(holder)
    try:
        encoder, decoder, found = _inferred_in_batches(returned, encoder, decoder, options)
    except ModelError as error:
        if encoder is None or not isinstance(returned, nn.Module) or not str(error).startswith(UNCLEAR):
            raise
        shown = meanings_that_forward_shows(returned, encoder, options)
        if shown is None:
            raise
        options = replace(options, encoder_outputs=shown[0])
        encoder, decoder, found = _inferred_in_batches(returned, encoder, decoder, options)
        found.notes.insert(0, shown[1])
    check_weights_stay(holder, sums, _short(text))
    if not isinstance(holder, nn.ModuleDict) and encoder is not None and decoder is not None:
        check_decoder_remembers_nothing(holder, encoder, decoder, found.contract)
        options, found = _as_forward_says(holder, encoder, decoder, options, found)
    if isinstance(decoder, MethodModule) and decoder.output is not None:
        found.facts["decoder_output"] = decoder.output
        found.notes += _outputs_not_taken(decoder, decoder.output, found.contract)
    found.notes += _autocast_notes({"encoder": encoder, "decoder": decoder}, found.contract)
    files = sorted((options.weights or {}).items())
    provenance: dict[str, Any] = {
        "source": _short(text),
        "class": type(returned).__name__ if isinstance(returned, nn.Module) else _pair_name(encoder, decoder),
        "weights_sha256": {Path(file).name: sha256(Path(file)) for _, file in files},
        "inferred": found.facts,
    }
    if lines := [*notes, *found.notes]:
        provenance["notes"] = lines
    encoder, decoder = _alone(encoder, "encoder", found.contract), _alone(decoder, "decoder", found.contract)
    return described(Source(found.contract, encoder, decoder, options.images, provenance, options.encoder_outputs))


def _inferred_in_batches(
    vae: object, encoder: nn.Module | None, decoder: nn.Module | None, options: ModelOptions
) -> tuple[nn.Module | None, nn.Module | None, Inference]:
    """Return the encoder, the decoder and what is inferred of them, where their code may fix the size of the batch."""
    try:
        encoder, found = _inferred(vae, encoder, decoder, options)
        return encoder, decoder, found
    except ModelError as error:
        parts = {"encoder": encoder, "decoder": decoder}
        failing = next((part for part in parts if str(error).startswith(f"{part} {CANNOT_RUN}")), None)
        module = None if failing is None else parts[failing]
        if module is None or failing is None or (isinstance(module, MethodModule) and module.rows is not None):
            raise
        method = module if isinstance(module, MethodModule) else MethodModule(module)
        for rows in _batch_sizes(encoder, decoder, str(error)):
            parts[failing] = method.changed(rows=rows)
            with contextlib.suppress(VaeExportError):
                encoder, decoder, found = _inferred_in_batches(vae, parts["encoder"], parts["decoder"], options)
                found.notes.insert(
                    0,
                    f"{failing}: its code takes batches of {rows} alone; the file fills smaller ones up, and takes the "
                    f"time of {rows} rows; x.size(0) in place of the number lets it take any",
                )
                return encoder, decoder, found
        raise


def _batch_sizes(encoder: nn.Module | None, decoder: nn.Module | None, message: str) -> list[int]:
    """Return sizes of a batch that modules may have in their code: attributes of this name, and numbers of an error."""
    modules = [child for part in (encoder, decoder) if part is not None for child in part.modules()]
    found = [child.rows for child in modules if isinstance(child, MethodModule) and child.rows is not None]
    found += [
        value for child in modules for name, value in vars(child).items() if "batch" in name and type(value) is int
    ]
    numbers = map(int, re.findall(r"\d+", message.partition("; got ")[2]))
    return list(dict.fromkeys(size for size in [*found, *numbers] if 0 < size <= _LARGEST_BATCH))[:_TRIED_BATCHES]


def _inferred(
    vae: object, encoder: nn.Module | None, decoder: nn.Module | None, options: ModelOptions
) -> tuple[nn.Module | None, Inference]:
    """Return the encoder and what is inferred of it and the decoder.

    The child `encoder` of a VAE may give features, from which `forward` makes mean and log-variance; then the encoder
    is what `forward` returns of them.
    """
    try:
        return encoder, infer_contract(encoder, decoder, options)
    except ModelError as error:
        if isinstance(vae, nn.Module) and encoder and decoder and str(error).startswith(f"decoder {CANNOT_RUN}"):
            check_decoder_runs_alone(vae, encoder, decoder, options)
        if not isinstance(vae, nn.Module) or vae is encoder or encoder is not getattr(vae, "encoder", None):
            raise
        whole = taking_by_name(MethodModule(vae), 1, options.conditions)
        try:
            found = infer_contract(whole, decoder, options)
        except VaeExportError:
            raise error from None
        if found.contract.encoding != "gaussian":  # the reconstruction would pass for a latent
            raise
    found.notes.insert(0, "encoder: mean and logvar are those of forward(), because .encoder does not give the latent")
    return whole, found


def _as_forward_says(
    vae: nn.Module, encoder: nn.Module, decoder: nn.Module, options: ModelOptions, found: Inference
) -> tuple[ModelOptions, Inference]:
    """Return the options and the inference with the meanings that `forward` gives the outputs of the encoder."""
    contract = found.contract
    if options.encoder_outputs is not None or contract.encoding != "gaussian" or len(contract.latents) > 1:
        return options, found
    words, line = meanings_by_forward(vae, encoder, contract)
    if words is not None:
        options = replace(options, encoder_outputs=words)
        again = infer_contract(encoder, decoder, options)
        again.notes[:0] = [note for note in found.notes if note not in again.notes]  # those of how it was found
        found = again
    if line is not None:
        found.notes.append(line)
    return options, found


def _outputs_not_taken(decoder: MethodModule, output: str, contract: Contract) -> list[str]:
    """Return a line with the values of the chosen output and of those that would fit as well: a wrong choice shows."""
    fixed = contract.at()
    inputs = inputs_for(decoder, fixed.spec("decoder").inputs)
    _, returned = run_listed_or_not(decoder.changed(output=None), inputs, len(fixed.latents))
    taken = follow_path(returned, output)
    try:
        leaves = find_leaves(returned)
    except ModelError:  # a distribution: its members have names that say what they are
        return []
    others = [leaf for leaf in leaves if leaf.tensor.shape == taken.shape and not torch.equal(leaf.tensor, taken)]
    if not others:
        return []
    values = [f"{leaf.path} ({_extent(leaf.tensor)})" for leaf in others]
    return [
        f"decoder: {output} ({_extent(taken)}) is taken as the data; of its shape are also {', '.join(values)}; "
        "the values are those of random latents"
    ]


def _autocast_notes(parts: Mapping[Part, nn.Module | None], contract: Contract) -> list[str]:
    """Return a line for each part that computes in lower precision than its files do."""
    return [
        f"{part}: it computes under torch.autocast; the files compute in float32"
        for part, module in parts.items()
        if module is not None and _is_changed_by_autocast(module, contract.at().spec(part), len(contract.latents))
    ]


def _is_changed_by_autocast(module: nn.Module, spec: PartSpec, latents: int) -> bool:
    inputs = inputs_for(module, spec.inputs)
    outputs = []
    for autocast in (False, True):
        with as_example(module, autocast=autocast):
            if spec.part == "decoder":
                returned = listed_or_not(module, inputs, latents)[1]
            else:
                returned = flat_or_not(module, inputs)[1]
        outputs.append([leaf.tensor for leaf in find_leaves(returned)])
    return not all(map(torch.equal, *outputs))


def _extent(tensor: torch.Tensor) -> str:
    return f"{tensor.min().item():.3g} to {tensor.max().item():.3g}"


def _check_weights(holder: nn.Module, text: str) -> None:
    """Raise `ModelError` for code and weights that cannot be exported.

    Weights without values are refused before lazy layers are run, which would draw them at random.
    """
    parts = holder.items() if isinstance(holder, nn.ModuleDict) else [(type(holder).__name__, holder)]
    for name, part in parts:
        if isinstance(part, torch.jit.ScriptModule):
            where, do = f"{text}, '{name}'", "build the model without torch.jit.script"
            raise ModelError("module is TorchScript", where=where, expected="Python code", do=do)
    for name, tensor in (*holder.named_parameters(), *holder.named_buffers()):
        if is_lazy(tensor) or tensor.is_meta:
            kind = "lazy" if is_lazy(tensor) else "on the meta device"
            raise ModelError(f"module is {kind}", where=f"{text}, '{name}'", expected="values", do="pass --weights")
        if tensor.layout is not torch.strided:
            where, do = f"{text}, '{name}'", "use tensor.to_dense(), and torch.matmul"
            raise ModelError("tensor is sparse", where=where, expected="a dense tensor", got=tensor.layout, do=do)


def _alone(module: nn.Module | None, part: Part, contract: Contract) -> nn.Module | None:
    """Return a method as a module without the children that it does not use, whose weights would go into its files."""
    if not isinstance(module, MethodModule):
        return module
    inputs = inputs_for(module, contract.at().spec(part).inputs, 2)  # one row is too few for batch statistics

    def returned(method: nn.Module) -> list[Leaf]:
        if part == "decoder":
            return find_leaves(run_listed_or_not(method, inputs, len(contract.latents))[1])
        return find_leaves(run_flat_or_not(method, inputs)[1])

    expected = returned(module)
    unused: list[str] = []
    for name in module.module._modules:
        alone = module.changed(without=[*unused, name])
        try:
            # Each run begins with the same random state, so that drawn outputs are equal too.
            found = returned(alone)
        except Exception:  # the method uses this child
            found = []
        pairs = zip(found, expected, strict=False)
        if len(found) == len(expected) and all(torch.equal(a.tensor, b.tensor) for a, b in pairs):
            unused.append(name)
    return module.changed(without=unused)


def _call(text: str) -> object:
    """Import the module that a text names, call the function, and return what it gives."""
    module_name, _, function_name = text.rpartition(":")
    module = _imported(module_name)
    function = module
    for name in function_name.split("."):
        function = getattr(function, name, None)
    if not callable(function):
        names = [name for name, value in vars(module).items() if inspect.isroutine(value) or inspect.isclass(value)]
        own = [name for name in names if getattr(vars(module)[name], "__module__", "") == module.__name__]
        nearest_first = list(dict.fromkeys([*difflib.get_close_matches(function_name, own), *own]))
        more = f" and {len(own) - _LISTED} more" if len(own) > _LISTED else ""
        have = " | ".join(nearest_first[:_LISTED]) + more if own else "no function"
        raise UsageError("no such function", where=module_name, expected=have, got=function_name)
    if isinstance(function, nn.Module):
        do = f"write a function that returns {function_name}"
        raise UsageError("not a function", where=text, got=f"a module, {type(function).__name__}", do=do)
    if needed := _needed_arguments(function):
        do = "name a function without arguments that returns the model"
        raise UsageError("function needs arguments", where=text, got=", ".join(needed), do=do)
    try:
        return _with_torchvision(function)
    except Exception as error:  # the user's code may raise anything
        raise ModelError("function failed", where=text, got=f"{type(error).__name__}: {error}") from error


def _imported(name: str) -> Any:
    """Import a module by its dotted name from the working folder, or by the path of its file."""
    path = Path(name)
    try:
        if path.suffix == ".py" or len(path.parts) > 1:
            if not path.is_file():
                raise UsageError("no such file", where=path, expected="a Python file")
            # The child processes of `bench` import it again, from where a script's own imports work too.
            with _first_on_path(path.absolute().parent):
                spec = importlib.util.spec_from_file_location(path.stem, path.absolute())
                if spec is None or spec.loader is None:
                    raise UsageError("not a Python file", where=path)
                module = importlib.util.module_from_spec(spec)
                sys.modules.setdefault(path.stem, module)  # dataclasses and pickles look their module up
                _with_torchvision(partial(spec.loader.exec_module, module))
                return module
        with _first_on_path(Path.cwd()):
            return _with_torchvision(partial(importlib.import_module, name))
    except VaeExportError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError("no such module", where=name, do="run from the folder that it lies in") from error
        raise ModelError("module cannot be imported", where=name, got=error) from error
    except Exception as error:  # the user's code may raise anything
        raise ModelError("module cannot be imported", where=name, got=f"{type(error).__name__}: {error}") from error


def _with_torchvision(function: Callable[[], object]) -> Any:
    """Call a function, and again where it failed to import a torchvision that was built for another torch."""
    try:
        return function()
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    import_torchvision()
    return function()


@contextmanager
def _first_on_path(folder: Path) -> Any:
    """Let imports find modules of a folder first. It stays last on the path for imports inside functions."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        if str(folder) not in sys.path:
            sys.path.append(str(folder))


def _needed_arguments(function: Callable[..., object]) -> list[str]:
    """Return the names of the arguments without a default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in variadic]


def _modules(returned: object, text: str) -> tuple[nn.Module, nn.Module | None, nn.Module | None]:
    """Return what holds the weights, the encoder and the decoder."""
    if isinstance(returned, nn.Module) and not isinstance(returned, nn.ModuleDict | nn.ModuleList):
        return _of_vae(returned, text)
    pair: Sequence[object] = ()
    if isinstance(returned, Mapping | nn.ModuleDict):
        members = dict(returned.items())
        pair = members.get("encoder"), members.get("decoder")
    elif isinstance(returned, tuple | list | nn.ModuleList) and len(returned) == 2:
        pair = tuple(returned)
    known = [item for item in pair if item is not None]
    owners = {id(owner): owner for item in known if (owner := _owner(item)) is not None}
    if len(owners) == 1 and all(map(inspect.ismethod, known)):
        (owner,) = owners.values()
        methods = [None if item is None else MethodModule(owner, item.__name__) for item in pair]  # type: ignore[attr-defined]  # a method has a name
        return owner, methods[0], methods[1]
    if not known or not all(isinstance(item, nn.Module) for item in known):
        expected = "a module with encode and decode, or (encoder, decoder)"
        raise ModelError("function gives no model", where=text, expected=expected, got=_described(returned))
    encoder, decoder = (unwrapped(item) if isinstance(item, nn.Module) else None for item in pair)
    parts = {"encoder": encoder, "decoder": decoder}
    holder = nn.ModuleDict({name: part for name, part in parts.items() if isinstance(part, nn.Module)})
    return holder, encoder, decoder


def _owner(item: object) -> nn.Module | None:
    """Return the module that a method is of, or None for anything else."""
    owner = getattr(item, "__self__", None) if inspect.ismethod(item) else None
    return owner if isinstance(owner, nn.Module) else None


def _of_vae(vae: nn.Module, text: str) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Return the encoder and decoder of one module: its methods, or its children."""
    parts: list[nn.Module] = []
    for method, child in (("encode", "encoder"), ("decode", "decoder")):
        if callable(getattr(vae, method, None)):
            parts.append(MethodModule(vae, method))
        elif isinstance(found := getattr(vae, child, None), nn.Module):
            parts.append(found)
        else:
            raise ModelError(
                f"model has neither {method}() nor .{child}",
                where=f"{text}, {type(vae).__name__}",
                do="give it methods encode and decode, or return (encoder, decoder)",
            )
    return vae, parts[0], parts[1]


def _described(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"({', '.join(type(item).__name__ for item in value)})"
    return type(value).__name__


def _pair_name(*modules: nn.Module | None) -> str:
    owners = [module.module if isinstance(module, MethodModule) else module for module in modules if module is not None]
    return " and ".join(dict.fromkeys(type(owner).__name__ for owner in owners))


def _short(text: str) -> str:
    """Return the text without the folders of a file, which say where this machine keeps it."""
    module, _, function = text.rpartition(":")
    return f"{Path(module).name if module.endswith('.py') else module}:{function}"
