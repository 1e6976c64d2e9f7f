"""Write new keys and values into a cache of fixed capacity: TensorRT's native layers."""

from __future__ import annotations

import onnx_ir as ir

from edgellama.optimize.passes.cache_inputs import cache_mask, write_indices
from edgellama.optimize.passes.edit import clear_unused, insert_before, replace
from edgellama.optimize.passes.match import operand


def scatter_cache(model: ir.Model, capacity: int) -> int:
    """Rewrite attentions over a growing past; returns how many.

    1. `Attention(q, k, v, mask, past_k, past_v) -> y, present_k, present_v`
       -> `present = TensorScatter(past, new, write_indices, axis=2)` for keys and values, and
       `y = Attention(q, present_k, present_v, kv_index <= position_id)` over the whole capacity.
       The explicit mask says both what is causal and what the cache does not hold yet; TensorRT
       misreads `is_causal` for decode and ignores `nonpad_kv_seqlen`.
    2. An attention without a past: declined.

    The graph gains the input `write_indices` int64 [batch], where a row's new tokens go.
    """
    graph = model.graph
    count = 0
    for node in list(graph):
        if node.op_type != "Attention" or len(node.inputs) < 6:
            continue
        indices, mask = write_indices(graph), cache_mask(graph, capacity)
        caches = []
        for new, past, present in zip(
            node.inputs[1:3], node.inputs[4:6], node.outputs[1:3], strict=True
        ):
            (cache,) = insert_before(
                node,
                "TensorScatter",
                [past, new, indices],
                [f"{present.name}/scatter"],
                attributes={"axis": 2},
            )
            caches.append(cache)
        (attended,) = insert_before(
            node,
            "Attention",
            [operand(node, 0), *caches, mask],
            [f"{node.outputs[0].name}/attention"],
            attributes={"scale": node.attributes["scale"].as_float()},
        )
        replace(node.outputs[0], attended)
        for old, cache in zip(node.outputs[1:3], caches, strict=True):
            replace(old, cache)
        count += 1
    clear_unused(model)
    return count
