"""Rotary embedding of a tile, and the rounding of a tile to what the cache holds: device code."""

import triton
import triton.language as tl


@triton.jit
def load_rotated(pointers, mask, angles, cos, sin, D: tl.constexpr):
    """Load rows of heads and rotate them; float32 [N, D].

    `pointers` [N, 1] point at feature 0 of a head, `mask` [N, 1] says which rows exist, `angles`
    [N, 1] are the rows' positions in the tables `cos` and `sin`, float32 [positions, D / 2].
    Feature d of the first half turns with feature d + D / 2: a' = a cos - b sin, b' = b cos + a sin
    (Su et al. 2021, in the half-split order of Hugging Face's checkpoints).
    """
    half: tl.constexpr = D // 2
    d = tl.arange(0, half)[None, :]
    # Halves rather than whole rows with their partners: only what lies in a row is loaded wide.
    a = tl.load(pointers + d, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(pointers + half + d, mask=mask, other=0.0).to(tl.float32)
    c = tl.load(cos + angles * half + d, mask=mask, other=0.0)
    s = tl.load(sin + angles * half + d, mask=mask, other=0.0)
    halves = tl.join(a * c - b * s, b * c + a * s)
    return tl.reshape(tl.permute(halves, (0, 2, 1)), (a.shape[0], D))


@triton.jit
def round_to_cache(x, scale, kind: tl.constexpr):
    """Round float32 [N, D] as a cache of type `kind` holds it; `scale` float32 [1, D] is one step.

    A float cache has no steps. Codes are rounded half to even and saturate at the type's ends:
    127 for int8, 448 for E4M3.
    """
    if kind == tl.int8:
        steps = tl.minimum(tl.maximum(x / scale, -127.0), 127.0)
        # 1.5 * 2^23: adding it leaves no bit behind the point, subtracting gives the integer.
        return ((steps + 12582912.0) - 12582912.0).to(tl.int8)
    elif kind == tl.float8e4nv:
        return tl.minimum(tl.maximum(x / scale, -448.0), 448.0).to(tl.float8e4nv)
    else:
        return x.to(kind)
