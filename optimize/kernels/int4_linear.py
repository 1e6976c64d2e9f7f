"""A linear with INT4 weights, y = x W^T, on the matrix units; its weights unpacked in registers."""

import triton
import triton.language as tl


@triton.jit
def unpack(codes, kind: tl.constexpr):
    """Return the low and the high codes of bytes int8 [...], each in [-8, 7], in the type `kind`.

    A nibble in the last bits of 1024 (float16) or 128 (bfloat16) is that number plus the nibble:
    an OR and a subtraction, where a conversion from integers takes a slower instruction.
    """
    bits = codes.to(tl.int16)
    low = bits & 0xF
    high = (bits >> 4) & 0xF
    if kind == tl.float16:
        first = (low | 0x6400).to(tl.float16, bitcast=True) - 1032.0
        second = (high | 0x6400).to(tl.float16, bitcast=True) - 1032.0
    else:
        first = (low | 0x4300).to(tl.bfloat16, bitcast=True) - 136.0
        second = (high | 0x4300).to(tl.bfloat16, bitcast=True) - 136.0
    return first.to(kind), second.to(kind)


@triton.jit
def int4_linear(
    x,
    codes,
    scales,
    rows,
    outputs,
    inputs,
    y,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Write y T [rows, outputs].

    x: T [rows, inputs]. codes: int8 [outputs, inputs / 2]: of each 128 inputs 64 bytes, whose low
    nibbles are the first 64 and whose high ones the last 64, a code plus 8 each. scales: T
    [outputs, inputs / 128].
    Grid: (outputs / BLOCK_N, rows / BLOCK_M).
    """
    kind = x.dtype.element_ty
    groups = inputs // 128
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = n < outputs
    exists = (m < rows)[:, None]
    j = tl.arange(0, 64)
    n_wide = n.to(tl.int64)
    line = x + m[:, None].to(tl.int64) * inputs + j[None, :]
    # 64 bytes a group: said so that the compiler sees what the bytes of an output divide by.
    source = codes + n_wide[:, None] * (groups * 64) + j[None, :]
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for g in range(groups):
        packed = tl.load(source + g * 64, mask=inside[:, None], other=0)
        scale = tl.load(scales + n_wide * groups + g, mask=inside, other=0.0)
        low, high = unpack(packed, kind)
        first = tl.load(line + g * 128, mask=exists, other=0.0)
        second = tl.load(line + g * 128 + 64, mask=exists, other=0.0)
        part = tl.dot(first, tl.trans(low), input_precision="ieee")
        part = tl.dot(second, tl.trans(high), part, input_precision="ieee")
        total += part * scale.to(tl.float32)[None, :]
    place = m[:, None].to(tl.int64) * outputs + n[None, :]
    tl.store(y + place, total.to(kind), mask=exists & inside[None, :])
