"""TorchScript modules and programs of torch.export as a `Structure`."""

from __future__ import annotations

import functools
import hashlib
import io
import pickletools
import zipfile
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from vae_export.contract import Array
from vae_export.formats.structure import Node, Structure, constant, plain_version, unused
from vae_export.formats.torch_archive import (
    MANGLED,
    PROGRAM_RECORDS,
    SCRIPT_RECORDS,
    code_content,
    further_content,
    program_content,
    program_version,
    texts,
)


def script_structure(data: bytes) -> Structure:
    """Return the structure of a TorchScript file, whose graph is read with every function inside.

    An operator may change a tensor in place, so that one whose output nobody reads is part of the structure too.
    """
    module = torch.jit.load(io.BytesIO(data), map_location="cpu")
    graph = module.inlined_graph
    methods = ", ".join(sorted(_signature(module, name) for name in module._c._method_names()))
    facts = {"methods": methods} | _object(data) | _state(module)
    # C++ runs the hooks of a module too, and they are no part of its graph.
    hooks = len(module._c._get_forward_hooks()) + len(module._c._get_forward_pre_hooks())
    further = (*further_content(data, SCRIPT_RECORDS), *code_content(data), *([f"hooks: {hooks}"] if hooks else []))
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
    return Structure(tuple(inputs), outputs, texts(data), left, further=further, facts=facts)


def _signature(module: Any, name: str) -> str:
    """Return a method with the names and types of its arguments, without those of the module itself."""
    schema = module._c._get_method(name).schema
    arguments = [f"{argument.type} {argument.name}" for argument in schema.arguments[1:]]
    return f"{name}({', '.join(arguments)})"


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
    further = (*further_content(data, PROGRAM_RECORDS), *program_content(data))
    further += () if program.example_inputs is None else ("example inputs",)
    facts, left = {"ranges of sizes": symbols}, unused(made, outputs.values())
    written_by = {"torch": plain_version(version)} if (version := program_version(data)) else {}
    return Structure(tuple(inputs), outputs, texts(data), left, {}, further, written_by, facts)


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


def _object(data: bytes) -> dict[str, str]:
    """Return the module with its attributes, as it is stored: the instructions that build it, without its number."""
    with zipfile.ZipFile(io.BytesIO(data)) as records:
        stored = next(records.read(name) for name in records.namelist() if name.endswith("/data.pkl"))
    steps = [(step.name, argument) for step, argument, _ in pickletools.genops(stored)]
    text = MANGLED.sub("", repr([step for step in steps if step[0] not in ("PROTO", "FRAME")]))
    return {"object": hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()}
