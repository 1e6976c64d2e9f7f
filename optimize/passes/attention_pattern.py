"""Recognise attention with everything around it that a fused one takes over."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgellama.optimize.passes.match import dim, operand, producer, single_user
from edgellama.optimize.passes.round_cache import RoundedCache, rounded_cache


@dataclass(frozen=True)
class AttentionPattern:
    """One attention: its packed projection, its rotary tables, the reshaped output, and how its
    keys and values are rounded, if they are."""

    attention: ir.Node
    qkv: ir.Value
    cos: ir.Value
    sin: ir.Value
    output: ir.Value
    num_heads: int
    kv_heads: int
    rounding: tuple[RoundedCache, RoundedCache] | None


def _projection(value: ir.Value) -> ir.Value | None:
    """Return the [B, S, heads * D] value behind `Transpose(Reshape(value))`."""
    transposed = producer(value, "Transpose")
    reshaped = producer(operand(transposed, 0), "Reshape") if transposed is not None else None
    return operand(reshaped, 0) if reshaped is not None else None


def match_attention(attention: ir.Node) -> AttentionPattern | None:
    """Recognise an attention over rotated queries and keys; None for anything else.

    `Reshape(Transpose(Attention(rotary(q), rotary(k), v, mask, past...)))` with q, k, v split from
    one packed projection, keys and values rounded or not.
    """
    rotary_q = producer(operand(attention, 0), "RotaryEmbedding")
    keys, values = rounded_cache(operand(attention, 1)), rounded_cache(operand(attention, 2))
    rounding = (keys, values) if keys is not None and values is not None else None
    new_keys, new_values = operand(attention, 1), operand(attention, 2)
    if rounding is not None:
        new_keys, new_values = rounding[0].value, rounding[1].value
    rotary_k = producer(new_keys, "RotaryEmbedding")
    if rotary_q is None or rotary_k is None:
        return None
    parts = [
        _projection(operand(rotary_q, 0)),
        _projection(operand(rotary_k, 0)),
        _projection(new_values),
    ]
    split = producer(parts[0], "Split")
    if split is None or len(split.outputs) != len(parts):
        return None
    if any(part is not made for part, made in zip(parts, split.outputs, strict=True)):
        return None
    transposed = single_user(attention.outputs[0])
    if transposed is None or transposed.op_type != "Transpose":
        return None
    reshaped = single_user(transposed.outputs[0])
    if reshaped is None or reshaped.op_type != "Reshape":
        return None
    query, key = operand(rotary_q, 0), operand(rotary_k, 0)
    return AttentionPattern(
        attention=attention,
        qkv=operand(split, 0),
        cos=operand(rotary_q, 1),
        sin=operand(rotary_q, 2),
        output=reshaped.outputs[0],
        num_heads=dim(query, 1),
        kv_heads=dim(key, 1),
        rounding=rounding,
    )
