"""Fuse rotary position embedding into `RotaryEmbedding` (opset 23) over tables of angles."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgellama.optimize.passes.edit import (
    clear_unused,
    insert_before,
    replace,
    shared_initializer,
)
from edgellama.optimize.passes.match import (
    constant,
    dim,
    operand,
    producer,
    scalar,
    split_commutative,
    uncast,
)

COS_TABLE = "rotary.cos"
SIN_TABLE = "rotary.sin"


def _half(value: ir.Value) -> tuple[ir.Value, float] | None:
    """Return (x, start) of `Slice(x, start, ..., axis=-1)`."""
    node = producer(value, "Slice")
    start = scalar(operand(node, 1)) if node is not None else None
    return (operand(node, 0), start) if node is not None and start is not None else None


def _angle(value: ir.Value, op_type: str) -> bool:
    """Whether `value` is `Unsqueeze(Cos(...))` or `Unsqueeze(Sin(...))`, cast or not."""
    node = producer(value, "Unsqueeze")
    return node is not None and producer(uncast(operand(node, 0)), op_type) is not None


def frequencies_behind(angle: ir.Value) -> np.ndarray | None:
    """Return the inverse frequencies float32 [D / 2] that a cosine or sine comes from.

    The graph computes `Unsqueeze(Cos(Concat(t, t)))`, t = `Transpose(inv_freq x positions)`.
    """
    value: ir.Value = angle
    for op_types in (
        ("Unsqueeze",),
        ("Cos", "Sin"),
        ("Concat",),
        ("Transpose",),
        ("MatMul",),
        ("Expand",),
    ):
        value = uncast(value)
        node = value.producer()
        if node is None or node.op_type not in op_types:
            return None
        value = operand(node, 0)
    frequencies = constant(value, limit=4096)
    return None if frequencies is None else frequencies.reshape(-1)


def _match(total: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """Return (x [B, heads, S, D], cos) when `total` is the `Add` of a rotation of halves."""
    first, second = producer(operand(total, 0), "Mul"), producer(operand(total, 1), "Mul")
    if first is None or second is None:
        return None
    x, cos = operand(first, 0), operand(first, 1)
    rotated = split_commutative(second, "Concat")
    if rotated is None or not _angle(cos, "Cos") or not _angle(rotated[1], "Sin"):
        return None
    negated = producer(operand(rotated[0], 0), "Neg")
    upper = _half(operand(negated, 0)) if negated is not None else None
    lower = _half(operand(rotated[0], 1))
    if upper is None or lower is None or x.shape is None:
        return None
    half = dim(x, -1) // 2
    return (x, cos) if upper == (x, half) and lower == (x, 0) else None


def angle_tables(inv_freq: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cos and sin float32 [rows, head_dim / 2] of position x frequency.

    The product is rounded to float32 as transformers does, so that the tables agree with it.
    """
    angles = np.arange(rows, dtype=np.float32)[:, None] * inv_freq.astype(np.float32)[None, :]
    wide = angles.astype(np.float64)
    return np.cos(wide).astype(np.float32), np.sin(wide).astype(np.float32)


def add_angle_tables(
    graph: ir.Graph, inv_freq: np.ndarray, rows: int, dtype: ir.DataType | None
) -> tuple[ir.Value, ir.Value]:
    """Register the tables [rows, head_dim / 2] of cosines and sines in the graph's float type."""
    kind = dtype or ir.DataType.FLOAT
    tables = []
    for name, table in zip((COS_TABLE, SIN_TABLE), angle_tables(inv_freq, rows), strict=True):
        array = table if kind == ir.DataType.FLOAT else table.astype(kind.numpy())
        tables.append(shared_initializer(graph, name, ir.tensor(array, dtype=kind, name=name)))
    return tables[0], tables[1]


def fuse_rotary(model: ir.Model, rows: int, tables: ir.DataType | None = None) -> int:
    """Fuse rotations of queries and keys; returns how many. `rows` is the number of positions.

    `tables` is the type of the tables; None takes the graph's.

    1. `Add(Mul(x, cos), Mul(Concat(Neg(x[D/2:]), x[:D/2]), sin))` with cos and sin [B, 1, S, D]
       computed from `position_ids` -> `RotaryEmbedding(x, cos_table, sin_table, position_ids)`.
       In a narrower graph the angles are cast to its type; so are the tables.
    2. Halves of another tensor or another size, angles from elsewhere, or frequencies that are
       computed: declined.
    """
    graph = model.graph
    found = [
        (node, *match)
        for node in graph
        if node.op_type == "Add" and (match := _match(node)) is not None
    ]
    if not found:
        return 0
    frequencies = frequencies_behind(found[0][2])
    if frequencies is None:
        return 0
    cos_table, sin_table = add_angle_tables(graph, frequencies, rows, tables or found[0][2].dtype)
    positions = next(value for value in graph.inputs if value.name == "position_ids")
    for node, x, _cos in found:
        old = node.outputs[0]
        (new,) = insert_before(
            node,
            "RotaryEmbedding",
            [x, cos_table, sin_table, positions],
            [f"{old.name}/rotary"],
        )
        replace(old, new)
    clear_unused(model)
    return len(found)
