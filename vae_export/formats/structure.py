"""A file as a graph of operators and constants that does not depend on names, so that two files can be compared.

Files of other versions of an exporter have other names, another order of operators and other notes. Here each value is
known by the operator that computes it, the attributes of this operator and the values that it reads, down to inputs and
constants. Two files with equal graphs compute the same function.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from vae_export.contract import Array


@dataclass(frozen=True, eq=False)
class Node:
    """A value of a graph: an input, a constant, or an output of an operator.

    Attributes:
        kind: the operator, "input" or "constant".
        name: the name in the file, for messages; it does not count.
        facts: attributes as text; for a constant its type, shape and hash.
        inputs: the values that the operator reads, in order.
        output: which output of the operator this is.
        value: function that returns a constant.
        is_effect: whether the operator has no outputs and is run for what it does, such as raising an error.
    """

    kind: str
    name: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[Node, ...] = ()
    output: int = 0
    value: Callable[[], Array] | None = None
    is_effect: bool = False

    @cached_property
    def own(self) -> str:
        """The operator with its attributes, as text."""
        return json.dumps([self.kind, sorted(self.facts.items()), self.output, len(self.inputs)])

    @cached_property
    def digest(self) -> bytes:
        """The hash of the operator and of everything that it reads."""
        # Without recursion, because a network may be deeper than Python's stack.
        left: list[Node] = [self]
        while left:
            node = left[-1]
            missing = [] if "_digest" in vars(node) else [one for one in node.inputs if "_digest" not in vars(one)]
            if missing:
                left += missing
                continue
            left.pop()
            if "_digest" not in vars(node):
                whole = hashlib.sha256(node.own.encode())
                for one in node.inputs:
                    whole.update(vars(one)["_digest"])
                vars(node)["_digest"] = whole.digest()
        found: bytes = vars(self)["_digest"]
        return found

    def __str__(self) -> str:
        """Return the operator and its name, such as "Clip 'node_clamp'"."""
        return f"{self.kind} '{self.name}'" if self.name else self.kind


@dataclass(frozen=True, eq=False)
class Place:
    """Where a constant is read.

    Attributes:
        reader: the operator.
        index: which of its inputs the constant is.
        beside: whether another constant of the operator differs too.
    """

    reader: Node
    index: int
    beside: bool


#: Tells whether two constants of equal shape and type may be taken for equal: the one that is found, the expected one,
#: and where it is read.
Close = Callable[[Array, Array, Place], bool]


def constant(value: Callable[[], Array], dtype: str, shape: Sequence[int], data: bytes | memoryview, name: str) -> Node:
    """Return a constant.

    Args:
        value: function that returns it as an array.
        dtype: the name of its type.
        shape: its shape.
        data: its bytes, which are hashed.
        name: its name in the file.
    """
    facts = {"type": dtype, "shape": str(tuple(shape)), "bytes": hashlib.sha256(data).hexdigest()}
    return Node("constant", name, facts, value=value)


def array_constant(array: Array, name: str) -> Node:
    """Return an array as a constant."""
    import numpy as np

    # Arrays without elements have no buffer, nor have those of types that Python does not know.
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else b""
    return constant(lambda: array, array.dtype.name, array.shape, data, name)


def with_unknown_rows(shape: Node, is_row_count: Callable[[Node], bool]) -> list[Array] | None:
    """Return the pieces of a Reshape's shape with -1 in place of the number of rows, as later exporters write it.

    The shape is a Concat of positive constants and of the number of rows of an input of the graph, once. With it a
    Reshape gives the same as with -1, or fails: then no input passes, which the comparison of outputs finds.

    Args:
        shape: the value that the Reshape reads.
        is_row_count: whether a value is the number of rows of an input of the graph.

    Returns:
        One array for each input of the Concat, or None for any other shape.
    """
    import numpy as np

    rows = [item for item in shape.inputs if item.value is None]
    if shape.kind != "Concat" or len(rows) != 1 or not is_row_count(rows[0]):
        return None
    arrays = [np.array([-1]) if item.value is None else item.value() for item in shape.inputs]
    sizes = [array for array, item in zip(arrays, shape.inputs, strict=True) if item is not rows[0]]
    return arrays if sizes and all((array > 0).all() for array in sizes) else None


def unused(nodes: Iterable[Node], outputs: Iterable[Node]) -> tuple[str, ...]:
    """Return the operators and constants that no output depends on, each once, sorted."""
    used, left = set[int](), list(outputs)
    while left:
        node = left.pop()
        if id(node) not in used:
            used.add(id(node))
            left += node.inputs
    return tuple(sorted({str(node) for node in nodes if id(node) not in used and not _has_used_sibling(node, used)}))


def _has_used_sibling(node: Node, used: set[int]) -> bool:
    """Whether another output of the same operator may be used: its inputs are, and it is not the first output."""
    return node.output > 0 and all(id(one) in used for one in node.inputs)


def unread(data: bytes | memoryview, pieces: Iterable[tuple[int, int]]) -> tuple[str, ...]:
    """Return a line if a file of weights holds more than the weights and zeros between them, else nothing.

    Args:
        data: the bytes of the file.
        pieces: offset and length of each weight.
    """
    more = unread_bytes(data, pieces)
    return (f"{more:,} bytes of weights that nothing reads",) if more else ()


def unread_bytes(data: bytes | memoryview, pieces: Iterable[tuple[int, int]]) -> int:
    """Return how many bytes of a file lie outside these pieces, and are no zeros between them.

    Args:
        data: the bytes of the file.
        pieces: offset and length of each piece that is read.
    """
    view, end, more = memoryview(data), 0, 0
    for start, length in sorted(pieces):
        more += (start - end) if start > end and any(view[end:start]) else 0
        end = max(end, start + length)
    return more + max(0, len(view) - end)


def plain_version(text: str) -> str:
    """Return a version without what is behind a plus or a hyphen: builds of one version have several names."""
    return text.partition("+")[0].partition("-")[0]


@dataclass(frozen=True)
class Structure:
    """A file as a graph.

    Attributes:
        inputs: name, type and sizes of each input as text, in order; a weight that callers may replace is one of them.
        outputs: the values that the graph returns, by name, type and sizes, in order.
        metadata: texts that describe the file, by key.
        unused: operators and constants that no output depends on.
        notes: what the file states of inner values, such as their sizes: the name of each, the text, and what follows
            from the operators (None where that is not known), by digest. Two structures may state them of other values.
        further: a line for each thing in the file that has no place above: no engine runs it, and other readers may use
            it.
        written_by: plain versions of packages that the file states, by package. `differences` leaves them out.
        facts: what is known of the whole file beside its texts, such as its operator sets, by subject. They are apart
            from `metadata`, whose keys the file chooses.
    """

    inputs: tuple[str, ...]
    outputs: Mapping[str, Node]
    metadata: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    notes: Mapping[bytes, tuple[str, str, str | None]] = field(default_factory=dict)
    further: tuple[str, ...] = ()
    written_by: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


def differences(found: Structure, expected: Structure, close: Close | None = None) -> Iterator[str]:
    """Yield a line for each way in which a file differs from the expected one.

    Args:
        found: the structure of the file.
        expected: that of the file that it should be.
        close: which constants may be taken for equal; None allows equal bits only.
    """
    for key in sorted({*found.metadata, *expected.metadata}):
        yield from _texts(f"metadata '{key}'", found.metadata.get(key), expected.metadata.get(key))
    for key in sorted({*found.facts, *expected.facts}):
        yield from _texts(f"'{key}'", found.facts.get(key), expected.facts.get(key))
    if found.inputs != expected.inputs:
        yield f"inputs are {_listed(found.inputs)}; expected {_listed(expected.inputs)}"
    if list(found.outputs) != list(expected.outputs):
        yield f"outputs are {_listed(found.outputs)}; expected {_listed(expected.outputs)}"
    for extra in sorted(set(found.unused) - set(expected.unused)):
        yield f"{extra}: no output depends on it"
    unlike = False
    for line in _unlike_values(found, expected, close):
        unlike = True
        yield line
    for digest, (name, stated, computed) in found.notes.items():
        # Where operators differ, the values behind them are others too, and nothing may be known of them.
        if digest in expected.notes or computed is not None or not unlike:
            right = expected.notes[digest][1] if digest in expected.notes else computed
            yield from _texts(f"{name}: what is stated of it", stated, right)
    # Last, because other operators have other kernels, texts and tables, too.
    for extra in sorted(set(found.further) - set(expected.further)):
        yield f"{extra}; export writes no such thing"
    for missing in sorted(set(expected.further) - set(found.further)):
        yield f"{missing}; the file lacks it"


def _unlike_values(found: Structure, expected: Structure, close: Close | None) -> Iterator[str]:
    """Yield a line for each operator and constant that differs, from the outputs up."""
    seen = set[tuple[object, ...]]()
    pairs = zip(found.outputs.values(), expected.outputs.values(), strict=False)
    left: list[tuple[Node, Node, Place | None]] = []
    left += [(*pair, None) for pair in pairs][::-1]
    while left:
        one, other, place = left.pop()
        read = None if place is None or one.kind != "constant" else (place.reader.digest, place.index, place.beside)
        pair = one.digest, other.digest, read
        if one.digest == other.digest or pair in seen:
            continue
        seen.add(pair)
        if one.own == other.own:
            left += _inputs(one, other)
        elif one.kind == other.kind == "constant":
            yield from _constants(one, other, close, place)
        elif one.kind != other.kind:
            yield f"{one} is in the place of {other}"
        else:
            for key in sorted({*one.facts, *other.facts}):
                yield from _texts(f"{one}: attribute '{key}'", one.facts.get(key), other.facts.get(key))
            if len(one.inputs) != len(other.inputs):
                yield f"{one}: {len(one.inputs)} inputs; expected {len(other.inputs)}"
            elif one.output != other.output:
                yield f"{one}: output {one.output}; expected output {other.output}"
            left += _inputs(one, other)


def _inputs(one: Node, other: Node) -> list[tuple[Node, Node, Place | None]]:
    """Return the pairs of inputs, the last first, each with its place."""
    pairs = list(zip(one.inputs, other.inputs, strict=False))
    found: list[tuple[Node, Node, Place | None]] = []
    unlike = {place for place, (a, b) in enumerate(pairs) if a.kind == b.kind == "constant" and a.digest != b.digest}
    found += [(*pair, Place(one, place, bool(unlike - {place}))) for place, pair in enumerate(pairs)]
    return found[::-1]


def _texts(what: str, found: str | None, expected: str | None) -> Iterator[str]:
    if found == expected:
        return
    if found is None:
        yield f"{what} is missing; expected {_short(expected)}"
    elif expected is None:
        yield f"{what} is {_short(found)}; expected none"
    else:
        at = next(
            (place for place, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b),
            min(len(found), len(expected)),
        )
        start = max(0, at - 20) if max(len(found), len(expected)) > _LONG else 0
        yield f"{what} is {_short(found, start)}; expected {_short(expected, start)}"


#: Characters of a text that are shown.
_LONG = 60


def _short(text: str | None, start: int = 0) -> str:
    piece = str(text)[start:]
    return f"{'…' if start else ''}{piece[:_LONG]}{'…' if len(piece) > _LONG else ''}"


def _constants(one: Node, other: Node, close: Close | None, place: Place | None) -> Iterator[str]:
    """Yield the line for two constants that differ: in type, shape, or in some of their values."""
    import numpy as np

    name = f"initialiser '{one.name or other.name}'"
    for key in ("type", "shape"):
        if one.facts[key] != other.facts[key]:
            yield f"{name}: {key} {one.facts[key]}; expected {other.facts[key]}"
            return
    if one.value is None or other.value is None:
        yield f"{name}: its values differ"
        return
    found, expected = one.value(), other.value()
    if close is not None and place is not None and close(found, expected, place):
        return
    size = max(found.size, 1)
    bits = [
        array.reshape(-1).view(np.uint8).reshape(size, -1) for array in map(np.ascontiguousarray, (found, expected))
    ]
    differ = np.flatnonzero((bits[0] != bits[1]).any(axis=1))
    first = int(differ[0]) if differ.size else 0
    index = [int(item) for item in np.unravel_index(first, found.shape)] if found.ndim else []
    yield (
        f"{name}: {len(differ):,} of {found.size:,} values differ, first {_number(found, first)} at {index}; "
        f"expected {_number(expected, first)}"
    )


def _number(array: Array, place: int) -> str:
    import numpy as np

    value = array.reshape(-1)[place]
    return f"{value:.9g}" if np.issubdtype(array.dtype, np.floating) else str(value)


def _listed(texts: Sequence[str] | Mapping[str, Node]) -> str:
    return ", ".join(texts) or "none"
