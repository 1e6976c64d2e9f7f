"""Combine what the pieces of a past made of the values: the second half of a cut attention."""

import triton
import triton.language as tl


@triton.jit
def combine_pieces(partial, logs, lines, pieces, attention, D: tl.constexpr, PIECES: tl.constexpr):
    """Weigh each piece by its share of the softmax.

    partial: float32 [pieces, lines, D]; logs: float32 [pieces, lines], base 2; attention: T [lines,
    D], where a line is a token's query head; there are at most PIECES pieces. A line without keys
    in any piece becomes zeros. All pieces are loaded at once: one after another, each would wait
    for memory again.
    Grid: (lines).
    """
    line = tl.program_id(0)
    piece = tl.arange(0, PIECES)
    there = piece < pieces
    d = tl.arange(0, D)[None, :]
    at = piece * lines.to(tl.int64) + line
    log = tl.load(logs + at, mask=there, other=float("-inf"))
    part = tl.load(partial + at[:, None] * D + d, mask=there[:, None], other=0.0)
    top = tl.max(log)
    base = tl.where(top == float("-inf"), 0.0, top)
    weight = tl.exp2(log - base)
    total = tl.sum(weight)
    mixed = tl.sum(part * weight[:, None], 0) / tl.where(total == 0.0, 1.0, total)
    place = line.to(tl.int64) * D + tl.arange(0, D)
    tl.store(attention + place, mixed.to(attention.dtype.element_ty))
