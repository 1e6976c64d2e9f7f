"""A linear with INT4 weights for one row at a time, limited by how fast weights are read."""

import triton
import triton.language as tl


@triton.jit
def nibble(word, one, shift: tl.constexpr):
    """Return 1 + nibble / 16 in float32, of the nibble at bit `shift` of a word.

    The four bits become the highest of the mantissa of a number in [1, 2): a shift and one
    instruction for AND and OR, where a conversion from integers would be two more.
    """
    if shift <= 19:  # noqa: SIM108 - the other one does not compile
        moved = word << (19 - shift)
    else:
        moved = word >> (shift - 19)
    return ((moved & 0x780000) | one).to(tl.float32, bitcast=True)


@triton.jit
def quarter(quad, place: tl.constexpr, kind: tl.constexpr):
    """Return one of the four inputs in 64 bits, in float32."""
    return (quad >> (16 * place)).to(tl.int16).to(kind, bitcast=True).to(tl.float32)


@triton.jit
def load_words(words, scales, n, inside, groups, start, pair):
    """Load codes int32 [N, pairs, 2] and scales T [N, pairs] of the groups from `start` on."""
    g = start + pair // 8
    there = g < groups
    word = (start * 16 + pair * 2)[:, None] + tl.arange(0, 2)[None, :]
    packed = tl.load(
        words + n[:, None, None] * (groups * 16) + word[None],
        mask=inside[:, None, None] & there[None, :, None],
        other=0,
        eviction_policy="evict_first",
    )
    scale = tl.load(
        scales + n[:, None] * groups + g[None, :],
        mask=inside[:, None] & there[None, :],
        other=0.0,
    )
    return packed, scale


@triton.jit
def int4_row(
    x,
    codes,
    scales,
    rows,
    outputs,
    inputs,
    y,
    BLOCK_N: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """Write y T [rows, outputs]; the arguments are those of `int4_linear`.

    A program has BLOCK_N outputs of one row, and takes GROUPS groups of 128 inputs at a time, split
    over its warps and added up once, at the end. A split over programs would need memory for the
    parts, of which a plugin of TensorRT's has none, and a second launch.

    Codes are read as words of eight. A nibble is the code plus 8, and stands here as 1 + nibble /
    16, so the sum of the products is 1.5 sum(x) too large and 16 times too small: the first is the
    same for all outputs and taken off once for each piece of a group.
    Grid: (outputs / BLOCK_N, rows).
    """
    kind = x.dtype.element_ty
    groups = inputs // 128
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < outputs
    n_wide = n.to(tl.int64)
    row = tl.program_id(1).to(tl.int64)
    words = codes.to(tl.pointer_type(tl.int32))
    quads = (x + row * inputs).to(tl.pointer_type(tl.int64))
    pair = tl.arange(0, GROUPS * 8)  # two words, of eight pairs that a group has
    each = tl.arange(0, 2)
    # 1.0; said so that it stays in a register, as AND and OR take one constant at once only.
    one = 0x3F800000 | (rows >> 31)
    sums = tl.zeros([BLOCK_N, GROUPS * 8], tl.float32)
    next_packed, next_scale = load_words(words, scales, n_wide, inside, groups, 0, pair)
    for start in range(0, groups, GROUPS):
        # The next ones are on their way while these are multiplied.
        packed, scale = next_packed, next_scale
        next_packed, next_scale = load_words(
            words, scales, n_wide, inside, groups, start + GROUPS, pair
        )
        g = start + pair // 8
        there = g < groups
        # The low nibbles of a word are four inputs in a row, the high ones the four 64 further.
        place = (g * 32 + (pair % 8) * 2)[:, None] + each[None, :]
        low = tl.load(quads + place, mask=there[:, None], other=0)
        high = tl.load(quads + place + 16, mask=there[:, None], other=0)
        a, b = quarter(low, 0, kind), quarter(low, 1, kind)
        c, d = quarter(low, 2, kind), quarter(low, 3, kind)
        e, f = quarter(high, 0, kind), quarter(high, 1, kind)
        h, i = quarter(high, 2, kind), quarter(high, 3, kind)
        excess = tl.sum(((a + b) + (c + d)) + ((e + f) + (h + i)), 1) * 1.5
        part = nibble(packed, one, 0) * a[None]
        part += nibble(packed, one, 8) * b[None]
        part += nibble(packed, one, 16) * c[None]
        part += nibble(packed, one, 24) * d[None]
        part += nibble(packed, one, 4) * e[None]
        part += nibble(packed, one, 12) * f[None]
        part += nibble(packed, one, 20) * h[None]
        part += nibble(packed, one, 28) * i[None]
        sums += (tl.sum(part, 2) - excess[None]) * (scale.to(tl.float32) * 16.0)
    tl.store(y + row * outputs + n, tl.sum(sums, 1).to(kind), mask=inside)
