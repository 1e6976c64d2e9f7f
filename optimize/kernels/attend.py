"""Grouped attention of new tokens over the cache and each other: device code of the kernels.

A tile holds the query heads of one group for some positions, so that keys and values are read once
for the group. The past comes from the cache, in pieces where one program a tile would leave the
GPU idle. New tokens are rotated where they are needed and never waited for: no program reads what
another one writes.
"""

import triton
import triton.language as tl

from edgellama.optimize.kernels.rotate import load_rotated, round_to_cache


@triton.jit
def accumulate(q, k, v, seen, logit_scale, top, total, mixed, MASKED: tl.constexpr):
    """Add a block of keys and values to a running softmax.

    q [M, D], k and v [N, D] in the compute type; `seen` [M, N] where MASKED, otherwise every key
    counts. `top` [M] is the largest logit so far (base 2), `total` [M] the sum of the weights,
    `mixed` [M, D] the weighted values, float32 (Milakov and Gimelshein 2018). Rows that have seen
    nothing keep -inf and zeros.
    """
    logits = tl.dot(q, tl.trans(k), input_precision="ieee") * logit_scale
    if MASKED:
        logits = tl.where(seen, logits, float("-inf"))
    new_top = tl.maximum(top, tl.max(logits, 1))
    base = tl.where(new_top == float("-inf"), 0.0, new_top)
    weights = tl.exp2(logits - base[:, None])
    keep = tl.exp2(top - base)
    total = total * keep + tl.sum(weights, 1)
    mixed = mixed * keep[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    return new_top, total, mixed


@triton.jit
def attend(
    qkv,
    past_key,
    past_value,
    rows,
    cos,
    sin,
    key_scale,
    value_scale,
    capacity,
    present_key,
    present_value,
    piece,
    pieces,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    SCALE: tl.constexpr,
    APPEND: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    NEW_N: tl.constexpr,
):
    """Attend one tile of one row and one group of heads over one piece of its past.

    Program ids: 0 is the tile, 1 has the group of heads in its remainder by KV_HEADS, 2 the row.

    qkv: T [tokens, (KV_HEADS * (GROUP + 2)) * D], query heads, then keys, then values.
    past_key, past_value, present_key, present_value: T, int8 or E4M3
        [slots, KV_HEADS, capacity, D].
    rows: int32 [rows, 4], of each row its slot, its first token in qkv, its tokens and the tokens
        that its slot holds already. A row of no tokens does nothing.
    cos, sin: float32 [positions, D / 2]. key_scale, value_scale: float32 [KV_HEADS, D].
    APPEND: whether new keys and values are taken from qkv, and written to the cache. Where the past
        is cut, the last piece has these alone: behind a piece of the past they would be waited for.
        Otherwise another kernel has written them, and they are read there.

    Returns, of BLOCK_M lines: mixed float32 [BLOCK_M, D] (normalised, scaled), log float32
    [BLOCK_M] (base 2, of the sum of the exponentials; -inf where nothing was seen), and the line's
    token, head, and whether it exists.
    """
    PADDED: tl.constexpr = triton.next_power_of_2(GROUP)
    POSITIONS: tl.constexpr = BLOCK_M // PADDED
    WIDTH: tl.constexpr = KV_HEADS * (GROUP + 2) * D
    kind = past_key.dtype.element_ty
    compute = qkv.dtype.element_ty
    # Later tiles have more keys before them: those first, so that the last ones to end are short.
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    head = tl.program_id(1) % KV_HEADS
    row = tl.program_id(2)
    slot = tl.load(rows + row * 4).to(tl.int64)
    first = tl.load(rows + row * 4 + 1).to(tl.int64)
    count = tl.load(rows + row * 4 + 2)
    past = tl.load(rows + row * 4 + 3)

    line = tl.arange(0, BLOCK_M)
    position = tile * POSITIONS + line // PADDED
    member = line % PADDED
    exists = (member < GROUP) & (position < count)
    d = tl.arange(0, D)[None, :]
    token = first + position
    query_head = head * GROUP + member
    pointers = qkv + (token * WIDTH + query_head * D)[:, None]
    q = load_rotated(pointers, exists[:, None], (past + position)[:, None], cos, sin, D)
    logit_scale = SCALE * 1.4426950408889634  # exponentials are of base 2
    if kind != compute:
        # A key is its codes times its steps: the steps go to the query, relative to the largest.
        key_step = tl.load(key_scale + head * D + d)
        largest = tl.max(key_step)
        logit_scale = logit_scale * largest
        q = q * (key_step / largest)
        value_step = tl.load(value_scale + head * D + d)
    else:
        key_step = tl.zeros([1, D], tl.float32)
        value_step = tl.zeros([1, D], tl.float32)
    q = q.to(compute)

    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    mixed = tl.zeros([BLOCK_M, D], tl.float32)
    cache = (slot * KV_HEADS + head) * capacity * D
    reach = tl.minimum((tile + 1) * POSITIONS, count)  # behind the tile's last token
    held = past
    if not APPEND:
        held = past + reach
    if tile * POSITIONS >= count:  # nothing here: read nothing
        held = 0
        reach = 0
    cuts = pieces
    if APPEND:
        cuts = tl.maximum(pieces - 1, 1)
    blocks = tl.cdiv(tl.cdiv(held, BLOCK_N), cuts)
    begin = piece * blocks * BLOCK_N
    end = tl.minimum(begin + blocks * BLOCK_N, held)
    # Blocks that every line of the tile sees all of need no mask: not that of the end, and before
    # the tile's own tokens none of the order.
    common = end
    if not APPEND:
        common = tl.minimum(end, past + tile * POSITIONS)
    whole = begin + tl.maximum(common - begin, 0) // BLOCK_N * BLOCK_N
    for start in range(begin, whole, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        place = cache + n[:, None].to(tl.int64) * D + d
        k = tl.load(past_key + place).to(compute)
        v = tl.load(past_value + place).to(compute)
        top, total, mixed = accumulate(q, k, v, n, logit_scale, top, total, mixed, False)
    for start in range(whole, end, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        inside = (n < end)[:, None]
        place = cache + n[:, None].to(tl.int64) * D + d
        k = tl.load(past_key + place, mask=inside, other=0.0).to(compute)
        v = tl.load(past_value + place, mask=inside, other=0.0).to(compute)
        seen = (n < end)[None, :]
        if not APPEND:
            seen = seen & (n[None, :] <= (past + position)[:, None])
        top, total, mixed = accumulate(q, k, v, seen, logit_scale, top, total, mixed, True)

    if APPEND:  # noqa: SIM102 - known when it is compiled, the other is not
        if piece == pieces - 1:
            key_column = KV_HEADS * GROUP + head
            value_column = key_column + KV_HEADS
            for start in tl.range(0, reach, NEW_N, num_stages=1):
                n = start + tl.arange(0, NEW_N)
                inside = (n < reach)[:, None]
                source = qkv + ((first + n) * WIDTH)[:, None]
                new_key = load_rotated(
                    source + key_column * D, inside, (past + n)[:, None], cos, sin, D
                )
                new_value = tl.load(source + value_column * D + d, mask=inside, other=0.0)
                key_codes = round_to_cache(new_key, key_step, kind)
                value_codes = round_to_cache(new_value.to(tl.float32), value_step, kind)
                # Each token is written by the tile that it is in.
                own = inside & (n // POSITIONS == tile)[:, None]
                place = cache + (past + n)[:, None].to(tl.int64) * D + d
                tl.store(present_key + place, key_codes, mask=own)
                tl.store(present_value + place, value_codes, mask=own)
                seen = (n < reach)[None, :] & (n[None, :] <= position[:, None])
                top, total, mixed = accumulate(
                    q, key_codes.to(compute), value_codes.to(compute), seen, logit_scale,
                    top, total, mixed, True,
                )  # fmt: skip

    divisor = tl.where(total == 0.0, 1.0, total)
    mixed = mixed / divisor[:, None]
    if kind != compute:
        mixed = mixed * value_step
    log = top + tl.log2(divisor)
    return mixed, log, token, query_head, exists
