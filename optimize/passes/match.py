"""Read the neighbourhood of a node: what the passes need to recognise a pattern."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

MICROSOFT = "com.microsoft"


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """Return the node that makes `value` if it has that type, else None."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type else None


def uncast(value: ir.Value) -> ir.Value:
    """Return what a `Cast` made `value` of, or `value` itself."""
    node = producer(value, "Cast")
    return operand(node, 0) if node is not None else value


def operand(node: ir.Node, index: int) -> ir.Value:
    """Return an input that the pattern needs; absent inputs are a malformed graph."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise ValueError(f"node {node.name or node.op_type} lacks input {index}")
    return value


def split_commutative(node: ir.Node, op_type: str) -> tuple[ir.Node, ir.Value] | None:
    """Return (the operand made by `op_type`, the other operand) of a two-input node."""
    first, second = operand(node, 0), operand(node, 1)
    if (made := producer(first, op_type)) is not None:
        return made, second
    if (made := producer(second, op_type)) is not None:
        return made, first
    return None


def constant(value: ir.Value | None, limit: int = 64) -> npt.NDArray[Any] | None:
    """Return a small constant's array, or None for anything computed, large or absent."""
    tensor = value.const_value if value is not None else None
    if tensor is None or tensor.size > limit:
        return None
    return np.asarray(tensor.numpy())


def scalar(value: ir.Value | None) -> float | None:
    """Return a one-element constant as a float, else None."""
    array = constant(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def single_user(value: ir.Value) -> ir.Node | None:
    """Return the one node that reads `value`, or None when there are several or it is an output."""
    users = {use.node for use in value.uses()}
    return users.pop() if len(users) == 1 and not value.is_graph_output() else None


def dims(shape: ir.ShapeProtocol | None) -> tuple[int, ...]:
    """Return a static shape as integers; raises ValueError for a symbolic or absent one."""
    if shape is None:
        raise ValueError("a shape is unknown where the pass needs it")
    sizes = tuple(shape)
    for size in sizes:
        if not isinstance(size, int):
            raise ValueError(f"shape {shape} is symbolic where the pass needs numbers")
    return tuple(size for size in sizes if isinstance(size, int))


def dim(value: ir.Value, axis: int) -> int:
    """Return one static size of a value; raises ValueError when it is symbolic or unknown."""
    size = value.shape[axis] if value.shape is not None else None
    if not isinstance(size, int):
        raise ValueError(f"axis {axis} of {value.name} is {size}; a static size is needed")
    return size


def is_weight(value: ir.Value | None) -> bool:
    """Whether `value` is an initializer."""
    return value is not None and value.is_initializer()
