"""Rotate new keys and write them with their values into the cache, rounded to its type."""

import triton
import triton.language as tl

from edgellama.optimize.kernels.rotate import load_rotated, round_to_cache


@triton.jit
def append_cache(
    qkv,
    rows,
    cos,
    sin,
    key_scale,
    value_scale,
    capacity,
    present_key,
    present_value,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Write the new tokens of every row; the arguments are those of `attend`.

    Grid: (blocks of BLOCK_N tokens of the longest row, KV_HEADS, rows).
    """
    WIDTH: tl.constexpr = KV_HEADS * (GROUP + 2) * D
    kind = present_key.dtype.element_ty
    head = tl.program_id(1)
    row = tl.program_id(2)
    slot = tl.load(rows + row * 4).to(tl.int64)
    first = tl.load(rows + row * 4 + 1).to(tl.int64)
    count = tl.load(rows + row * 4 + 2)
    past = tl.load(rows + row * 4 + 3)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (n < count)[:, None]
    d = tl.arange(0, D)[None, :]
    source = qkv + ((first + n) * WIDTH)[:, None]
    key_column = KV_HEADS * GROUP + head
    key = load_rotated(source + key_column * D, inside, (past + n)[:, None], cos, sin, D)
    value = tl.load(source + (key_column + KV_HEADS) * D + d, mask=inside, other=0.0)
    key_step = tl.load(key_scale + head * D + d)
    value_step = tl.load(value_scale + head * D + d)
    place = (slot * KV_HEADS + head) * capacity * D + (past + n)[:, None].to(tl.int64) * D + d
    tl.store(present_key + place, round_to_cache(key, key_step, kind), mask=inside)
    tl.store(
        present_value + place, round_to_cache(value.to(tl.float32), value_step, kind), mask=inside
    )
