"""Combine what the pieces of a past made of the values: the second half of a cut attention."""

import triton
import triton.language as tl


@triton.jit
def combine_pieces(partial, logs, lines, pieces, attention, D: tl.constexpr, BLOCK_M: tl.constexpr):
    """Weigh each piece by its share of the softmax.

    partial: float32 [pieces, lines, D]; logs: float32 [pieces, lines], base 2; attention: T [lines,
    D], where a line is a token's query head. A line without keys in any piece becomes zeros.
    Grid: (lines / BLOCK_M).
    """
    line = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    exists = line < lines
    d = tl.arange(0, D)[None, :]
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    mixed = tl.zeros([BLOCK_M, D], tl.float32)
    for piece in range(pieces):
        at = piece * lines.to(tl.int64) + line
        log = tl.load(logs + at, mask=exists, other=float("-inf"))
        part = tl.load(partial + at[:, None] * D + d, mask=exists[:, None], other=0.0)
        new_top = tl.maximum(top, log)
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        keep, weight = tl.exp2(top - base), tl.exp2(log - base)
        total = total * keep + weight
        mixed = mixed * keep[:, None] + part * weight[:, None]
        top = new_top
    mixed = mixed / tl.where(total == 0.0, 1.0, total)[:, None]
    place = line[:, None].to(tl.int64) * D + d
    tl.store(attention + place, mixed.to(attention.dtype.element_ty), mask=exists[:, None])
