"""Pack linears that read one input into one matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgellama.optimize.passes.edit import (
    add_initializer,
    clear_unused,
    insert_before,
    replace,
    shared_initializer,
)
from edgellama.optimize.passes.linear_weight import (
    HALF,
    LinearWeight,
    insert_dequantize,
    linear_weight,
    read_quantized,
)
from edgellama.optimize.passes.match import dim, dims, operand
from edgellama.optimize.quantized_weight import JoinedWeight


@dataclass(frozen=True)
class Group:
    """The linears `model.layers.N.<parent>.<part>` of a layer that read one input, in the order in
    which they are packed; `name` is the packed one's."""

    parent: str
    parts: tuple[str, ...]
    name: str


QKV = Group("self_attn", ("q_proj", "k_proj", "v_proj"), "qkv")
GATE_UP = Group("mlp", ("gate_proj", "up_proj"), "gate_up")


def _join_floats(weights: Sequence[ir.Value], name: str) -> ir.LazyTensor:
    """Join `[K, N_i]` weights to `[K, sum N_i]` when the result is read, not before."""
    tensors = [value.const_value for value in weights]
    if any(tensor is None for tensor in tensors):
        raise ValueError(f"{name}: a projection has no data")
    sources = [tensor for tensor in tensors if tensor is not None]
    rows = dims(sources[0].shape)[0]
    columns = sum(dims(tensor.shape)[1] for tensor in sources)

    def join() -> ir.TensorProtocol:
        return ir.Tensor(np.concatenate([t.numpy() for t in sources], axis=1), name=name)

    shape = ir.Shape([rows, columns])
    return ir.LazyTensor(join, dtype=sources[0].dtype, shape=shape, name=name)


def _join(anchor: ir.Node, parts: Sequence[LinearWeight], name: str) -> ir.Value | None:
    """Return the packed weight, stored as the parts are; None where they are stored differently."""
    graph = anchor.graph
    assert isinstance(graph, ir.Graph)
    if len({(part.data.dtype, part.reader and part.reader.op_type) for part in parts}) != 1:
        return None
    reader = parts[0].reader
    data = [part.data for part in parts]
    if reader is None:
        return add_initializer(graph, name, _join_floats(data, name))
    if reader.op_type == "Cast":
        half = add_initializer(graph, f"{name}{HALF}", _join_floats(data, f"{name}{HALF}"))
        to = {"to": reader.attributes["to"].as_int()}
        (wide,) = insert_before(anchor, "Cast", [half], [f"{name}.wide"], attributes=to)
        wide.type, wide.shape = ir.TensorType(ir.DataType(to["to"])), half.shape
        return wide
    weights = [read_quantized(part.reader) for part in parts if part.reader is not None]
    dtype = operand(reader, 1).dtype
    if dtype is None or len({weight.layout.block_size for weight in weights}) != 1:
        return None
    return insert_dequantize(anchor, name, JoinedWeight(weights), dtype, transposed=True)


def _members(graph: ir.Graph, group: Group) -> dict[str, dict[str, tuple[ir.Node, LinearWeight]]]:
    """Collect the group's `MatMul` nodes by layer prefix."""
    layers: dict[str, dict[str, tuple[ir.Node, LinearWeight]]] = {}
    for node in graph:
        found = linear_weight(node)
        if found is None:
            continue
        prefix, _, rest = found.name.rpartition(f".{group.parent}.")
        part = rest.removesuffix(".weight")
        if part in group.parts:
            layers.setdefault(prefix, {})[part] = (node, found)
    return layers


def pack_linears(model: ir.Model, group: Group) -> int:
    """Pack each layer's linears of the group; returns how many layers were packed.

    1. `MatMul(x, W1)`, `MatMul(x, W2)`, ... on one x -> `Split(MatMul(x, [W1 | W2 | ...]),
       axis=-1)`; a W behind a `Cast` or `DequantizeLinear` is packed as it is stored, scales of
       whole weights as one scale an output.
    2. A layer that lacks one of them, or where they read different tensors or are stored
       differently: declined.
    """
    graph = model.graph
    count = 0
    order = {node: place for place, node in enumerate(graph)}
    for prefix, members in _members(graph, group).items():
        if len(members) != len(group.parts):
            continue
        nodes = [members[part][0] for part in group.parts]
        found = [members[part][1] for part in group.parts]
        x = operand(nodes[0], 0)
        if any(operand(node, 0) is not x for node in nodes):
            continue
        anchor = min(nodes, key=order.__getitem__)
        packed = _join(anchor, found, f"{prefix}.{group.parent}.{group.name}_proj.weight")
        if packed is None:
            continue
        (product,) = insert_before(anchor, "MatMul", [x, packed], [f"{prefix}.{group.name}"])
        widths = [dim(part.data, 1) for part in found]
        sizes_name = f"{group.parent}.{group.name}_widths"
        sizes = shared_initializer(
            graph, sizes_name, ir.tensor(np.array(widths, np.int64), name=sizes_name)
        )
        outputs = insert_before(
            anchor,
            "Split",
            [product, sizes],
            [f"{prefix}.{part}" for part in group.parts],
            attributes={"axis": -1},
        )
        for node, new in zip(nodes, outputs, strict=True):
            replace(node.outputs[0], new)
        count += 1
    clear_unused(model)
    return count
