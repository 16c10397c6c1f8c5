"""TorchScript modules and programs of torch.export as a `Structure`."""

from __future__ import annotations

import functools
import hashlib
import io
import pickletools
import re
import tokenize
import zipfile
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from vae_export.contract import Array
from vae_export.formats.structure import Node, Structure, constant, unused

#: The archive's folder with the texts that describe a file.
_EXTRA = "/extra/"
#: The records that the structure has, or that do not count, without the folder of the archive.
_OF_ANY = r"extra/.*|version|byteorder|\.data/(serialization_id|version)|"
_SCRIPT_RECORDS = re.compile(_OF_ANY + r"code/.*\.py|constants/\d+|(data|constants)\.pkl")
_PROGRAM_RECORDS = re.compile(
    _OF_ANY + r"archive_(format|version)|models/model\.json|data/sample_inputs/model\.pt|"
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
)
#: The number in the name of a traced class.
_MANGLED = re.compile(r"___torch_mangle_\d+\.")
#: Records of one word or number, such as the version, and what they may hold.
_WORDS, _WORD = (
    re.compile(r"version|byteorder|\.data/(serialization_id|version)|archive_(format|version)"),
    rb"\w{1,64}\s?",
)
#: A definition in code, and the use of a constant.
_DEFINITION, _CONSTANT = re.compile(r"^ *((?:class|def) \w+)", re.MULTILINE), re.compile(r"\bCONSTANTS\.c(\d+)\b")
_END_OF_ARCHIVE, _END_BYTES = b"PK\x05\x06", 22


def script_structure(data: bytes) -> Structure:
    """Return the structure of a TorchScript file, whose graph is read with every function inside.

    An operator may change a tensor in place, so that one whose output nobody reads is part of the structure too.
    """
    module = torch.jit.load(io.BytesIO(data), map_location="cpu")
    graph = module.inlined_graph
    methods = ", ".join(sorted(module._c._method_names()))
    facts = {"methods": methods} | _object(data) | _state(module)
    # C++ runs the hooks of a module too, and they are no part of its graph.
    hooks = len(module._c._get_forward_hooks()) + len(module._c._get_forward_pre_hooks())
    further = (*_further(data, _SCRIPT_RECORDS), *_code(data), *([f"hooks: {hooks}"] if hooks else []))
    names, inputs = dict[str, Node](), list[str]()
    for value in list(graph.inputs())[1:]:  # the first is the module itself
        names[value.debugName()] = Node("input", value.debugName(), {"place": str(len(inputs))})
        inputs.append(str(value.type()))
    names[next(iter(graph.inputs())).debugName()] = Node("module")
    made = _block(graph, names)
    outputs = {str(place): names[value.debugName()] for place, value in enumerate(graph.outputs())}
    effects = [one for one in made if one.is_effect]
    outputs |= {f"effect {place}": one for place, one in enumerate(effects)}
    left = unused(made, outputs.values())
    return Structure(tuple(inputs), outputs, _extra(data), left, further=further, facts=facts)


def _block(block: Any, names: dict[str, Node], depth: int = 0) -> list[Node]:
    """Add the values of a block of a graph by name, and return them in order; an operator without outputs has one.

    Args:
        block: the graph, or a block in an operator of it, such as the body of a loop.
        names: the values that the block may read, by name; its own are added.
        depth: number of blocks around it.
    """
    made = []
    for node in block.nodes():
        facts = {name: _attribute(node, name) for name in node.attributeNames() if node.kindOf(name) != "t"}
        inputs = [names[value.debugName()] for value in node.inputs()]
        inputs += [_tensor(node.t(name), name) for name in node.attributeNames() if node.kindOf(name) == "t"]
        for inner in node.blocks():
            given = {
                value.debugName(): Node("input", value.debugName(), {"depth": str(depth), "place": str(place)})
                for place, value in enumerate(inner.inputs())
            }
            inside = _block(inner, scope := {**names, **given}, depth + 1)
            inputs += [Node("result", inputs=(scope[value.debugName()],)) for value in inner.outputs()]
            inputs += [one for one in inside if one.kind.endswith("_") or one.is_effect]
        outputs = list(node.outputs())
        for output, value in enumerate(outputs or [None]):
            typed = {} if value is None else {"type": str(value.type())}
            name = "" if value is None else value.debugName()
            one = Node(node.kind(), name, facts | typed, tuple(inputs), output, is_effect=value is None)
            if one.kind != "prim::Constant":
                made.append(one)
            if value is not None:
                names[name] = one
    return made


def _attribute(node: Any, name: str) -> str:
    return repr(getattr(node, node.kindOf(name))(name))


def _state(module: Any) -> dict[str, str]:
    """Return the tensors that are left in a module as texts; a frozen module has none."""
    return {
        f"state {name}": f"{tensor.dtype} {tuple(tensor.shape)} {_tensor(tensor, name).facts['bytes']}"
        for name, tensor in module.state_dict().items()
    }


def program_structure(data: bytes, program: torch.export.ExportedProgram) -> Structure:
    """Return the structure of a program of torch.export.

    Args:
        data: the file.
        program: the program in it.
    """
    signature, stored = program.graph_signature, {**program.state_dict, **program.constants}
    values: dict[torch.fx.Node, Node] = {}
    inputs, made = [], []
    kinds = {spec.arg.name: spec for spec in signature.input_specs if hasattr(spec.arg, "name")}
    outputs: dict[str, Node] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            spec = kinds.get(node.name)
            if spec is not None and spec.target in stored and isinstance(tensor := stored[spec.target], Tensor):
                values[node] = _tensor(tensor, spec.target)
            else:
                inputs.append(f"{node.name}: {_meta(node)}")
                values[node] = Node("input", node.name, {"place": str(len(inputs))})
        elif node.op == "output":
            returned = [one for one in torch.utils._pytree.tree_leaves(node.args) if isinstance(one, torch.fx.Node)]
            outputs = {f"{place}: {_meta(one)}": values[one] for place, one in enumerate(returned)}
        else:
            read: list[torch.fx.Node] = []
            text = repr(torch.fx.node.map_aggregate((node.args, node.kwargs), functools.partial(_placed, read)))
            facts = {"arguments": text, "result": _meta(node)}
            if node.op == "get_attr":  # a tensor or a graph of a branch
                inside = getattr(program.graph_module, node.target)
                facts["content"] = getattr(inside, "code", "") or _tensor(inside, node.name).facts["bytes"]
            values[node] = Node(str(node.target), node.name, facts, tuple(values[one] for one in read))
            made.append(values[node])
    symbols = ", ".join(f"{low.lower} to {low.upper}" for low in program.range_constraints.values())
    further = _further(data, _PROGRAM_RECORDS)
    further += () if program.example_inputs is None else ("example inputs",)
    facts, left = {"ranges of sizes": symbols}, unused(made, outputs.values())
    return Structure(tuple(inputs), outputs, _extra(data), left, further=further, facts=facts)


def _placed(read: list[torch.fx.Node], argument: Any) -> Any:
    """Return an argument of a node: a value by its place among those that are read, anything else as it is."""
    if not isinstance(argument, torch.fx.Node):
        return argument
    read.append(argument)
    return f"value {len(read) - 1}"


def _meta(node: torch.fx.Node) -> str:
    """Return type and sizes of a value, without the names of open sizes, which differ between versions."""
    found = node.meta.get("val")
    if not isinstance(found, Tensor):
        return type(found).__name__
    sizes: Iterable[object] = found.shape
    return f"{found.dtype} ({', '.join('?' if isinstance(size, torch.SymInt) else str(size) for size in sizes)})"


def _tensor(tensor: Tensor, name: str) -> Node:
    tensor = tensor.detach().cpu().contiguous()
    data = tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b""

    def value() -> Array:
        as_numbers: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        return as_numbers

    return constant(value, str(tensor.dtype), tensor.shape, data, name)


def _extra(data: bytes) -> dict[str, str]:
    """Return the texts that describe a file, by key."""
    with zipfile.ZipFile(io.BytesIO(data)) as records:
        return {
            name.partition(_EXTRA)[2]: records.read(name).decode("utf-8", "backslashreplace")
            for name in records.namelist()
            if _EXTRA in name
        }


def _further(data: bytes, known: re.Pattern[str]) -> tuple[str, ...]:
    """Return what an archive holds beside the records that the structure has; nothing for an archive of ours.

    Other readers run what PyTorch passes over: a program for phones, a library, or the other of two equal names.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as records:
        listed = [(record.filename.partition("/")[2], record.file_size) for record in records.infolist()]
        start = min((record.header_offset for record in records.infolist()), default=0)
        words = {
            name: records.read(item)
            for item, (name, _) in zip(records.infolist(), listed, strict=True)
            if _WORDS.fullmatch(name)
        }
    further = [f"record {name} of {size:,} bytes" for name, size in listed if known.fullmatch(name) is None]
    times = Counter(name for name, _ in listed)
    further += [f"record {name} {times[name]} times" for name in times if times[name] > 1]
    further += [f"record {name} with a text" for name, word in words.items() if not re.fullmatch(_WORD, word)]
    around = start + len(data) - data.rfind(_END_OF_ARCHIVE) - _END_BYTES
    further += [f"{around:,} bytes around the records"] if around else []
    return tuple(further)


def _code(data: bytes) -> list[str]:
    """Return what the code of a module defines, and what is in no graph: comments, and unused constants.

    Code is printed from graphs, so that versions of PyTorch differ in its lines, but not in what it defines.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as records:
        names = records.namelist()
        texts = [_MANGLED.sub("", records.read(name).decode()) for name in names if name.endswith(".py")]
    found = [f"definition of {name}" for text in texts for name in _DEFINITION.findall(text)]
    for text in texts:
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        found += [f"comment {token.string}" for token in tokens if token.type == tokenize.COMMENT]
    stored = sum("/constants/" in name for name in names)
    used = len({constant for text in texts for constant in _CONSTANT.findall(text)})
    return [*found, *([f"{stored - used} constants that no code reads"] if stored > used else [])]


def _object(data: bytes) -> dict[str, str]:
    """Return the module with its attributes, as it is stored: the instructions that build it, without its number."""
    with zipfile.ZipFile(io.BytesIO(data)) as records:
        stored = next(records.read(name) for name in records.namelist() if name.endswith("/data.pkl"))
    steps = [(step.name, argument) for step, argument, _ in pickletools.genops(stored)]
    text = _MANGLED.sub("", repr([step for step in steps if step[0] not in ("PROTO", "FRAME")]))
    return {"object": hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()}
