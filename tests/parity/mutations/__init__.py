"""A hundred ways in which an exported ONNX file can be wrong, and the check that must notice each.

A mutation changes the graph of one part in place. The values of the graphs are named, in this order:

    encoder  image → view → linear → relu → linear_1 → relu_1 → mean, linear_3 → logvar
    decoder  latent → linear → relu → linear_1 → relu_1 → linear_2 → view → image
    autoencoder  both, with div, exp, mul_24, latent between them
"""

from __future__ import annotations

from tests.parity.mutations.kinds import (
    Array,
    Catch,
    Change,
    Differs,
    Faulty,
    Linted,
    Mutation,
    Recorded,
    Refused,
    differs,
)
from tests.parity.mutations.nodes import (
    after,
    f32,
    i64,
    inputs_of,
    left_out,
    node_of,
    operator,
    outputs_exchanged,
    step,
    when_batch,
    without_bias,
)
from tests.parity.mutations.numbers import NUMBERS, ONE_PIXEL
from tests.parity.mutations.structure import STRUCTURE
from tests.parity.mutations.weights import (
    bfloat16,
    every_weight,
    exchange,
    flip,
    initialiser,
    int8,
    noise,
    other_weights,
    set_to,
    weight,
    weight_names,
)
from tests.parity.mutations.whole import (
    double_inside,
    dropout,
    fixed_batch,
    foreign_operator,
    half_image,
    hidden_in_a_function,
    integer_image,
    ir_version,
    kernel_attribute,
    metadata,
    more_outputs,
    noise_left_out,
    note_on_a_node,
    of_output,
    opset,
    renamed,
    sampling_inside,
    sidecar,
    training_branch,
    unused,
)

MUTATIONS: tuple[Mutation, ...] = (*NUMBERS, *STRUCTURE)

__all__ = [
    "MUTATIONS",
    "NUMBERS",
    "ONE_PIXEL",
    "STRUCTURE",
    "Array",
    "Catch",
    "Change",
    "Differs",
    "Faulty",
    "Linted",
    "Mutation",
    "Recorded",
    "Refused",
    "after",
    "bfloat16",
    "differs",
    "double_inside",
    "dropout",
    "every_weight",
    "exchange",
    "f32",
    "fixed_batch",
    "flip",
    "foreign_operator",
    "half_image",
    "hidden_in_a_function",
    "i64",
    "initialiser",
    "inputs_of",
    "int8",
    "integer_image",
    "ir_version",
    "kernel_attribute",
    "left_out",
    "metadata",
    "more_outputs",
    "node_of",
    "noise",
    "noise_left_out",
    "note_on_a_node",
    "of_output",
    "operator",
    "opset",
    "other_weights",
    "outputs_exchanged",
    "renamed",
    "sampling_inside",
    "set_to",
    "sidecar",
    "step",
    "training_branch",
    "unused",
    "weight",
    "weight_names",
    "when_batch",
    "without_bias",
]
