"""Read the cosines and sines of rotary embedding from tables instead of computing them."""

from __future__ import annotations

import onnx_ir as ir

from edgellama.optimize.passes.cache_inputs import integers, position_ids
from edgellama.optimize.passes.edit import clear_unused, insert_before, replace
from edgellama.optimize.passes.match import operand, producer, uncast
from edgellama.optimize.passes.rotary import add_angle_tables, frequencies_behind


def gather_angles(model: ir.Model, rows: int) -> int:
    """Replace computed angles; returns how many values, 2 for a Llama. `rows` is the positions.

    1. `Unsqueeze(Cast(Cos(Concat(t, t))))`, t = frequencies x `position_ids`
       -> `Unsqueeze(Concat(g, g))`, g = `Gather(cos_table [rows, D / 2], position_ids)`; sines
       likewise. A device would compute the product in TF32, whose 10 bits lose the position.
    2. Angles of anything else: declined.
    """
    graph = model.graph
    count = 0
    for node in list(graph):
        if node.op_type != "Unsqueeze":
            continue
        old = node.outputs[0]
        angle = operand(node, 0)
        kind = next((k for k in ("Cos", "Sin") if producer(uncast(angle), k) is not None), None)
        frequencies = frequencies_behind(old) if kind is not None else None
        if kind is None or frequencies is None:
            continue
        tables = add_angle_tables(graph, frequencies, rows, angle.dtype)
        table = tables[0] if kind == "Cos" else tables[1]
        name = f"rotary.{kind.lower()}"
        (half,) = insert_before(
            node, "Gather", [table, position_ids(graph)], [f"{name}.half"], attributes={"axis": 0}
        )
        (both,) = insert_before(
            node, "Concat", [half, half], [f"{name}.both"], attributes={"axis": -1}
        )
        axes = integers(graph, "rotary.axes", [1])
        (new,) = insert_before(node, "Unsqueeze", [both, axes], [f"{name}.heads"])
        replace(old, new)
        count += 1
    clear_unused(model)
    return count
