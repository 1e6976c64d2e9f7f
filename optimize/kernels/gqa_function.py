"""The fused attention in standard operators: the body that a runtime without the kernels runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from edgellama.optimize.kernels.function_body import Body, declare

GQA, GQA_PIECES, COMBINE = "FusedGQA", "FusedGQAPieces", "CombinePieces"
INPUTS = (
    "qkv",
    "past_key",
    "past_value",
    "rows",
    "cos",
    "sin",
    "key_scale",
    "value_scale",
)
_NEVER = -1e30  # far below any logit, and no infinity to subtract
_FLOAT, _INT64 = ir.DataType.FLOAT, ir.DataType.INT64
_LARGEST = {ir.DataType.INT8: 127.0, ir.DataType.FLOAT8E4M3FN: 448.0}


@dataclass(frozen=True)
class Heads:
    """What a body is written for: heads, their size, and the type of the cache."""

    kv_heads: int
    group: int
    head_dim: int
    cache: ir.DataType


@dataclass(frozen=True)
class _Rows:
    """The rows of a run: int64 [rows, 1] each; `member` bool [rows, tokens] says whose a token is,
    `positions` int64 [tokens] where it stands in its slot."""

    slot: ir.Value
    first: ir.Value
    count: ir.Value
    past: ir.Value
    member: ir.Value
    positions: ir.Value


def _read_rows(body: Body, qkv: ir.Value, rows: ir.Value) -> _Rows:
    slot, first, count, past = body.split(body.cast(rows, _INT64), [1, 1, 1, 1], axis=1)
    tokens = body("Squeeze", body("Shape", qkv, start=0, end=1), body.integers(0))
    token = body.wide(body("Range", body.integer(0), tokens, body.integer(1)), 0)
    inside = body("Less", token, body("Add", first, count))
    member = body("And", body("GreaterOrEqual", token, first), inside)
    place = body("Add", past, body("Sub", token, first))
    own = body("Where", member, place, body.integer(0))
    positions = body("ReduceSum", own, body.integers(0), keepdims=0)
    return _Rows(slot, first, count, past, member, positions)


def _rotate(body: Body, heads: ir.Value, cos: ir.Value, sin: ir.Value) -> ir.Value:
    """Rotate [tokens, heads, D] by angles [tokens, 1, D / 2]."""
    a, b = body.tape.op_multi_out("Split", [heads], {"axis": 2, "num_outputs": 2}, num_outputs=2)
    first = body("Sub", body("Mul", a, cos), body("Mul", b, sin))
    second = body("Add", body("Mul", b, cos), body("Mul", a, sin))
    return body("Concat", first, second, axis=2)


def _rounded(body: Body, value: ir.Value, scale: ir.Value, past: ir.Value) -> ir.Value:
    """Return what the cache holds of new values, its codes or numbers, in float32."""
    cache = past.dtype
    if cache not in _LARGEST:
        return body.cast(body("CastLike", value, past), _FLOAT)
    most = _LARGEST[cache]
    units = body("Clip", body("Div", value, scale), body.number(-most), body.number(most))
    if cache == ir.DataType.INT8:
        return body("Round", units)
    return body.cast(body("CastLike", units, past), _FLOAT)


def _append(
    body: Body, new: ir.Value, past: ir.Value, rows: _Rows, capacity: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """Write new codes float32 [tokens, kv_heads, D] behind each row's past.

    Returns what the rows' slots hold, float32 [rows, kv_heads, capacity, D] with zeros behind the
    last token, and the present.
    """
    wide = body.cast(past, _FLOAT)
    held = body("Gather", wide, body("Squeeze", rows.slot, body.integers(1)), axis=0)
    index = body.wide(body("Range", body.integer(0), capacity, body.integer(1)), 0)
    behind = body("Sub", index, rows.past)
    fresh = body(
        "And",
        body("GreaterOrEqual", behind, body.integer(0)),
        body("Less", behind, rows.count),
    )
    tokens = body("Squeeze", body("Shape", new, start=0, end=1), body.integers(0))
    last = body("Sub", tokens, body.integer(1))
    source = body("Clip", body("Add", rows.first, behind), body.integer(0), last)
    placed = body("Transpose", body("Gather", new, source, axis=0), perm=[0, 2, 1, 3])
    updated = body("Where", body.wide(fresh, 1, 3), placed, held)
    present = body("CastLike", body("ScatterND", wide, rows.slot, updated), past)
    valid = body("Less", index, body("Add", rows.past, rows.count))
    return body("Where", body.wide(valid, 1, 3), updated, body.number(0.0)), present


@dataclass(frozen=True)
class _Attended:
    """`logits` float32 [rows, kv_heads, tokens, group, capacity], `seen` the same with what counts,
    `values` float32 [rows, kv_heads, capacity, D]."""

    logits: ir.Value
    seen: ir.Value
    values: ir.Value
    presents: tuple[ir.Value, ir.Value]


def _logits(body: Body, inputs: dict[str, ir.Value], heads: Heads) -> _Attended:
    """Rotate, append and multiply queries by keys."""
    kv_heads, group, size = heads.kv_heads, heads.group, heads.head_dim
    rows = _read_rows(body, inputs["qkv"], inputs["rows"])
    widths = [kv_heads * group * size, kv_heads * size, kv_heads * size]
    parts = body.split(body.cast(inputs["qkv"], _FLOAT), widths, axis=1)
    query, key, value = (
        body.reshape(part, 0, count, size)
        for part, count in zip(parts, (kv_heads * group, kv_heads, kv_heads), strict=True)
    )
    cos, sin = (
        body.wide(body("Gather", inputs[name], rows.positions, axis=0), 1)
        for name in ("cos", "sin")
    )
    query, key = _rotate(body, query, cos, sin), _rotate(body, key, cos, sin)
    past_key, past_value = inputs["past_key"], inputs["past_value"]
    capacity = body("Squeeze", body("Shape", past_key, start=2, end=3), body.integers(0))
    steps = [body.wide(inputs[name], 1) for name in ("key_scale", "value_scale")]
    key = _rounded(body, key, inputs["key_scale"], past_key)
    value = _rounded(body, value, inputs["value_scale"], past_value)
    keys, present_key = _append(body, key, past_key, rows, capacity)
    values, present_value = _append(body, value, past_value, rows, capacity)
    if heads.cache in _LARGEST:
        keys, values = body("Mul", keys, steps[0]), body("Mul", values, steps[1])
    # The query heads of a group stand behind each other: [kv_heads, tokens x group, D].
    grouped = body("Transpose", body.reshape(query, 0, kv_heads, group, size), perm=[1, 0, 2, 3])
    scaled = body("Mul", body.reshape(grouped, kv_heads, -1, size), body.number(size**-0.5))
    products = body("MatMul", body.wide(scaled, 0), body("Transpose", keys, perm=[0, 1, 3, 2]))
    row_count = body("Shape", inputs["rows"], start=0, end=1)
    shape = body(
        "Concat",
        row_count,
        body.integers(kv_heads, -1, group),
        body.wide(capacity, 0),
        axis=0,
    )
    index = body.wide(body("Range", body.integer(0), capacity, body.integer(1)), 0)
    causal = body("LessOrEqual", index, body.wide(rows.positions, 1))
    seen = body("And", body.wide(rows.member, 2), body.wide(causal, 0))
    return _Attended(
        body("Reshape", products, shape),
        body.wide(seen, 1, 3),
        values,
        (present_key, present_value),
    )


def _mix(body: Body, found: _Attended, heads: Heads) -> tuple[ir.Value, ir.Value]:
    """Return the weighted values [tokens, heads, D] and the logarithms [tokens, heads], base 2."""
    never = body("Where", found.seen, found.logits, body.number(_NEVER))
    # A token is of one row: the others' weights are zeros.
    weights = body("Where", found.seen, body("Softmax", never, axis=-1), body.number(0.0))
    flat = body.reshape(weights, 0, 0, -1, 1)
    rows_shape = body("Concat", body("Shape", flat, start=0, end=2), body.integers(-1), axis=0)
    capacity = body("Shape", found.values, start=2, end=3)
    joined = body("Reshape", weights, body("Concat", rows_shape, capacity, axis=0))
    mixed = body(
        "ReduceSum", body("MatMul", joined, found.values), body.integers(0), keepdims=0
    )  # [kv_heads, tokens x group, D]
    apart = body.reshape(mixed, 0, -1, heads.group, heads.head_dim)
    by_token = body("Transpose", apart, perm=[1, 0, 2, 3])
    count = heads.kv_heads * heads.group
    values = body.reshape(by_token, 0, count, heads.head_dim)
    logs = body("ReduceLogSumExp", never, body.integers(0, 4), keepdims=0)
    logs = body.reshape(body("Transpose", logs, perm=[1, 0, 2]), 0, count)
    return values, body("Mul", logs, body.number(1 / math.log(2)))


def _arguments(heads: Heads) -> dict[str, ir.Value]:
    inputs = {name: ir.val(name) for name in INPUTS}
    for name in ("past_key", "past_value"):
        inputs[name].type = ir.TensorType(heads.cache)
    return inputs


def gqa_function(heads: Heads) -> ir.Function:
    """Return `FusedGQA` for these heads, in float32 between its inputs and outputs."""
    body, inputs = Body(), _arguments(heads)
    found = _logits(body, inputs, heads)
    values, _ = _mix(body, found, heads)
    flat = body.reshape(values, 0, heads.kv_heads * heads.group * heads.head_dim)
    outputs = [body("CastLike", flat, inputs["qkv"]), *found.presents]
    declared = declare(ir.AttributeType.INT, "kv_heads", "group")
    return body.function(GQA, list(inputs.values()), outputs, declared)


def pieces_function(heads: Heads) -> ir.Function:
    """Return `FusedGQAPieces` for these heads, of one piece."""
    body, inputs = Body(), _arguments(heads)
    found = _logits(body, inputs, heads)
    values, logs = _mix(body, found, heads)
    outputs = [body.wide(values, 0), body.wide(logs, 0), *found.presents]
    declared = declare(ir.AttributeType.INT, "kv_heads", "group", "programs")
    return body.function(GQA_PIECES, list(inputs.values()), outputs, declared)


def combine_function(dtype: ir.DataType) -> ir.Function:
    """Return `CombinePieces` with a result of type `dtype`."""
    body, partial, logs = Body(), ir.val("partial"), ir.val("logs")
    top = body("ReduceMax", logs, body.integers(0), keepdims=1)
    shares = body("Pow", body.number(2.0), body("Sub", logs, top))
    total = body("ReduceSum", shares, body.integers(0), keepdims=1)
    weights = body.wide(body("Div", shares, total), 3)
    mixed = body("ReduceSum", body("Mul", partial, weights), body.integers(0), keepdims=0)
    outputs = [body.cast(body.reshape(mixed, 0, -1), dtype)]
    declared = declare(ir.AttributeType.STRING, "dtype")
    return body.function(COMBINE, [partial, logs], outputs, declared)
