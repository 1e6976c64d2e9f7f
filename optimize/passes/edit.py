"""Change a graph: insert nodes, add initializers, and clear what nothing reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgellama.optimize.passes.match import dims


def add_initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Register a named constant; the name must be new."""
    if name in graph.initializers:
        raise ValueError(f"initializer {name} exists already")
    value = ir.Value(
        name=name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(dims(tensor.shape)),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def add_lazy(
    graph: ir.Graph,
    name: str,
    dtype: ir.DataType,
    shape: Sequence[int],
    make: Callable[[], npt.NDArray[Any]],
) -> ir.Value:
    """Register a named constant whose array `make` returns when it is written, not before."""

    def read() -> ir.TensorProtocol:
        return ir.Tensor(make(), dtype=dtype, name=name)

    lazy = ir.LazyTensor(read, dtype=dtype, shape=ir.Shape(shape), name=name)
    return add_initializer(graph, name, lazy)


def shared_initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Return the constant of that name, registering it at its first use."""
    return graph.initializers.get(name) or add_initializer(graph, name, tensor)


def insert_before(
    anchor: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    outputs: Sequence[str],
    *,
    domain: str = "",
    attributes: Mapping[str, Any] | None = None,
) -> tuple[ir.Value, ...]:
    """Insert a node in front of `anchor`; `outputs` names its results ("" leaves one out)."""
    graph = anchor.graph
    if not isinstance(graph, ir.Graph):
        raise ValueError(f"node {anchor.name} belongs to no graph")
    values = [ir.Value(name=name) for name in outputs]
    node = ir.node(
        op_type,
        inputs=list(inputs),
        attributes=dict(attributes or {}),
        domain=domain,
        outputs=values,
        name=f"{outputs[0]}/{op_type}",
    )
    graph.insert_before(anchor, node)
    return tuple(values)


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let every reader of `old`, the graph's outputs included, read `new`; type and shape go along.

    An output keeps its public name: `new` takes it over.
    """
    new.type = new.type or old.type
    new.shape = new.shape or old.shape
    producer = old.producer()
    graph = producer.graph if producer is not None else None
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if isinstance(graph, ir.Graph) and any(new is output for output in graph.outputs):
        public = old.name
        old.name = f"{public}/replaced"
        new.name = public


def clear_unused(model: ir.Model) -> None:
    """Remove nodes and initializers that no output depends on."""
    RemoveUnusedNodesPass()(model)
