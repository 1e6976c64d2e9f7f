"""What a graph over a cache of fixed capacity needs once: where to write, and what to see."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgellama.optimize.passes.edit import insert_before, shared_initializer

WRITE_INDICES = "write_indices"
_MASK, _POSITIONS = "cache.mask", "cache.positions"


def write_indices(graph: ir.Graph) -> ir.Value:
    """Return the input `write_indices` int64 [batch], added at its first use."""
    for value in graph.inputs:
        if value.name == WRITE_INDICES:
            return value
    indices = ir.val(WRITE_INDICES, ir.DataType.INT64, ["batch"])
    graph.inputs.append(indices)
    return indices


def position_ids(graph: ir.Graph) -> ir.Value:
    """Return the input `position_ids` int64 [batch, sequence]."""
    return next(value for value in graph.inputs if value.name == "position_ids")


def integers(graph: ir.Graph, name: str, values: list[int] | int) -> ir.Value:
    """Return the int64 constant of that name, registered at its first use."""
    return shared_initializer(graph, name, ir.tensor(np.array(values, np.int64), name=name))


def made(graph: ir.Graph, name: str) -> ir.Value | None:
    """Return the computed value of that name, if there is one."""
    return next((v for node in graph for v in node.outputs if v.name == name), None)


def cache_mask(graph: ir.Graph, capacity: int) -> ir.Value:
    """Return the visible positions, boolean [batch, 1, sequence, capacity], computed once.

    `kv_index <= position_id`: a token sees itself and everything before; what lies behind has not
    been written by its sequence.
    """
    found = made(graph, _MASK)
    if found is not None:
        return found
    first = next(iter(graph))
    index = shared_initializer(
        graph,
        "cache.index",
        ir.tensor(np.arange(capacity, dtype=np.int64).reshape(1, 1, 1, -1), name="cache.index"),
    )
    axes = integers(graph, "cache.mask_axes", [1, 3])
    (wide,) = insert_before(first, "Unsqueeze", [position_ids(graph), axes], ["cache.position"])
    (mask,) = insert_before(first, "LessOrEqual", [index, wide], [_MASK])
    mask.type = ir.TensorType(ir.DataType.BOOL)
    return mask


def write_positions(graph: ir.Graph) -> ir.Value:
    """Return the cache positions of the new tokens, int64 [batch, 1, sequence, 1], computed once.

    `write_indices` + 0, 1, ..., as far as the sequence goes.
    """
    found = made(graph, _POSITIONS)
    if found is not None:
        return found
    first = next(iter(graph))
    ids = next(value for value in graph.inputs if value.name == "input_ids")
    (length,) = insert_before(
        first, "Shape", [ids], [f"{_POSITIONS}.length"], attributes={"start": 1, "end": 2}
    )
    zero = integers(graph, f"{_POSITIONS}.zero", 0)
    one = integers(graph, f"{_POSITIONS}.one", 1)
    (stop,) = insert_before(
        first, "Squeeze", [length, integers(graph, f"{_POSITIONS}.axis", [0])], [f"{_POSITIONS}.n"]
    )
    (steps,) = insert_before(first, "Range", [zero, stop, one], [f"{_POSITIONS}.steps"])
    row = integers(graph, f"{_POSITIONS}.row_axes", [0, 1, 3])
    batch = integers(graph, f"{_POSITIONS}.batch_axes", [1, 2, 3])
    along = insert_before(first, "Unsqueeze", [steps, row], [f"{_POSITIONS}.along"])
    start = insert_before(
        first, "Unsqueeze", [write_indices(graph), batch], [f"{_POSITIONS}.start"]
    )
    (positions,) = insert_before(first, "Add", [*start, *along], [_POSITIONS])
    return positions
