"""Fuse rotary embedding, cache append and attention into ONNX Runtime's `GroupQueryAttention`."""

from __future__ import annotations

import onnx_ir as ir

from edgellama.optimize.passes.attention_pattern import match_attention
from edgellama.optimize.passes.edit import clear_unused, insert_before, replace
from edgellama.optimize.passes.match import MICROSOFT, operand
from edgellama.optimize.passes.quantize_cache import quantize_attention
from edgellama.optimize.passes.round_cache import RoundedCache
from edgellama.optimize.pipeline import BuildError

SEQLENS_K = "seqlens_k"
TOTAL_LENGTH = "total_sequence_length"


def _lengths(graph: ir.Graph) -> tuple[ir.Value, ir.Value]:
    """Return the two length inputs, adding them to the graph at their first use."""
    present = {value.name: value for value in graph.inputs}
    if SEQLENS_K not in present:
        lengths = ir.val(SEQLENS_K, ir.DataType.INT32, ["batch"])
        total = ir.val(TOTAL_LENGTH, ir.DataType.INT32, [])
        graph.inputs.extend([lengths, total])
        return lengths, total
    return present[SEQLENS_K], present[TOTAL_LENGTH]


def _keep_rounded(node: ir.Node | None, rounding: tuple[RoundedCache, RoundedCache]) -> None:
    """Let the cache hold the codes that keys and values were rounded to."""
    assert node is not None
    for part in rounding:
        if part.codes != ir.DataType.INT8:
            raise BuildError(
                f"the cache is rounded to {part.codes}; GroupQueryAttention on a CPU keeps int8 or "
                "floats: use precision.kv 'int8' or 'fp32'"
            )
    quantize_attention(node, rounding[0].steps, rounding[1].steps)


def fuse_gqa(model: ir.Model) -> int:
    """Fuse attentions; returns how many. Needs `fuse_rotary` and packed `QKV` before.

    1. `Reshape(Transpose(Attention(rotary(q), rotary(k), v, mask, past...)))` with q, k, v split
       from one packed projection -> `GroupQueryAttention(qkv, past, lengths, tables)`, which
       rotates, appends to the cache in place and attends. The mask goes: position = index. Keys
       and values that are rounded to int8 before -> an int8 cache with the same steps.
    2. Anything else between projection and attention: declined.

    The graph gains the inputs `seqlens_k` int32 [batch] (tokens in the cache after this step,
    minus one) and `total_sequence_length` int32 [] (their maximum plus one); `position_ids` goes.
    """
    graph = model.graph
    count = 0
    for node in list(graph):
        if node.op_type != "Attention" or (found := match_attention(node)) is None:
            continue
        lengths, total = _lengths(graph)
        names = [value.name or "" for value in node.outputs[1:3]]
        output, key, value = insert_before(
            node,
            "GroupQueryAttention",
            [
                found.qkv,
                None,
                None,
                operand(node, 4),
                operand(node, 5),
                lengths,
                total,
                found.cos,
                found.sin,
            ],
            [f"{names[0]}/attention", f"{names[0]}/new", f"{names[1]}/new"],
            domain=MICROSOFT,
            attributes={
                "num_heads": found.num_heads,
                "kv_num_heads": found.kv_heads,
                "do_rotary": 1,
                "scale": node.attributes["scale"].as_float(),
            },
        )
        replace(found.output, output)
        replace(node.outputs[1], key)
        replace(node.outputs[2], value)
        if found.rounding is not None:
            _keep_rounded(output.producer(), found.rounding)
        count += 1
    clear_unused(model)
    for value in list(graph.inputs):
        if value.name == "position_ids" and not value.uses():
            graph.inputs.remove(value)
    if count:
        model.opset_imports.setdefault(MICROSOFT, 1)
    return count
