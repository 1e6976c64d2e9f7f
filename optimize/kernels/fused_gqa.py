"""The fused attention in one launch: rotation, append and attention over the whole past."""

import triton
import triton.language as tl

from edgellama.optimize.kernels.attend import attend


@triton.jit
def fused_gqa(
    qkv,
    past_key,
    past_value,
    rows,
    cos,
    sin,
    key_scale,
    value_scale,
    capacity,
    attention,
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
    """Write `attention` T [tokens, KV_HEADS * GROUP * D]; see `attend`.

    Grid: (tiles of BLOCK_M / padded GROUP positions of the longest row, KV_HEADS, rows).
    """
    mixed, _log, token, head, exists = attend(
        qkv, past_key, past_value, rows, cos, sin, key_scale, value_scale, capacity,
        present_key, present_value, 0, 1,
        KV_HEADS, GROUP, D, SCALE, APPEND, BLOCK_M, BLOCK_N, NEW_N,
    )  # fmt: skip
    place = (token * (KV_HEADS * GROUP) + head)[:, None] * D + tl.arange(0, D)[None, :]
    tl.store(attention + place, mixed.to(attention.dtype.element_ty), mask=exists[:, None])
