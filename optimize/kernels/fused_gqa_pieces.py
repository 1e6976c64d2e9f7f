"""The fused attention with its past cut in pieces, for few rows over a long past."""

import triton
import triton.language as tl

from edgellama.optimize.kernels.attend import attend


@triton.jit
def fused_gqa_pieces(
    qkv,
    past_key,
    past_value,
    rows,
    cos,
    sin,
    key_scale,
    value_scale,
    capacity,
    tokens,
    partial,
    logs,
    present_key,
    present_value,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    SCALE: tl.constexpr,
    APPEND: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    NEW_N: tl.constexpr,
):
    """Write what each piece makes of the values, and its logarithms; see `attend`.

    partial: float32 [pieces, tokens, KV_HEADS * GROUP, D]; logs: float32 [pieces, tokens,
    KV_HEADS * GROUP], base 2, -inf of a piece without keys. New tokens belong to the last piece.
    Grid: (tiles, KV_HEADS * pieces, rows).
    """
    piece = tl.program_id(1) // KV_HEADS
    pieces = tl.num_programs(1) // KV_HEADS
    mixed, log, token, head, exists = attend(
        qkv, past_key, past_value, rows, cos, sin, key_scale, value_scale, capacity,
        present_key, present_value, piece, pieces,
        KV_HEADS, GROUP, D, SCALE, APPEND, BLOCK_M, BLOCK_N, NEW_N,
    )  # fmt: skip
    line = (piece.to(tl.int64) * tokens + token) * (KV_HEADS * GROUP) + head
    tl.store(logs + line, log, mask=exists)
    place = line[:, None] * D + tl.arange(0, D)[None, :]
    tl.store(partial + place, mixed, mask=exists[:, None])
