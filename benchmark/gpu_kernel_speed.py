"""Check `kernel-speed`: the fused attention beside a copy, and beside torch's own attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from warnings import catch_warnings, simplefilter

import torch

from edgellama.benchmark.check import Job
from edgellama.benchmark.gpu_timing import Timing, Work, copy_work, gb_s, time_in_turns
from edgellama.benchmark.outcome import CheckFailed
from edgellama.optimize.kernels.attention_shape import AttentionShape
from edgellama.optimize.kernels.launch import DTYPES, Inputs, Pieces, attend
from edgellama.optimize.kernels.pieces import PIECE_LINES, count_pieces, count_tiles
from edgellama.optimize.kernels.tile import Tile
from edgellama.optimize.kernels.tiles import WIDE, load_tiles
from edgellama.profiles.kernels import FP8_SINCE, PROGRAMS_EACH

# Heads of Llama 3 8B.
HEADS, GROUP, SIZE = 8, 4, 128
BATCHES, CONTEXTS = (1, 8, 32), (1024, 8192, 32768)
CHUNKS, PASTS = (512, 2048), (0, 4096)
COPY_BYTES = 1 << 30
# What the figures are held to.
COPY_SHARE, DECODE_RATIO, FP8_RATIO, PREFILL_RATIO = 0.80, 1.0, 1.6, 0.7
SHARE_POINT = (8, 8192)  # batch and context at which the share of a copy is asked for
FP8_CONTEXT = 8192


@dataclass(frozen=True)
class Point:
    """One size: rows, tokens of each, tokens held by each."""

    rows: int
    tokens: int
    past: int

    @property
    def capacity(self) -> int:
        """What a slot holds."""
        return self.past + self.tokens


def decode_bytes(shape: AttentionShape, point: Point) -> int:
    """Return what a step must read and write: keys and values held, the new ones, queries."""
    narrow = 1 if shape.is_quantized else 2
    cache = 2 * point.rows * shape.kv_heads * shape.head_dim * narrow
    tokens = point.rows * point.tokens
    own = 2 * tokens * (shape.width + shape.heads * shape.head_dim)
    return cache * (point.past + point.tokens) + own


def make_inputs(shape: AttentionShape, point: Point) -> Inputs:
    """Return rows of equal length, on the GPU."""
    cuda = torch.device("cuda")
    own, kept = DTYPES[shape.dtype], DTYPES[shape.kv_dtype]
    size = (point.rows, shape.kv_heads, point.capacity, shape.head_dim)
    caches = [(torch.randn(size, device=cuda) * 20).to(kept) for _ in range(2)]
    tokens = point.rows * point.tokens
    rows = [[row, row * point.tokens, point.tokens, point.past] for row in range(point.rows)]
    steps = torch.full((shape.kv_heads, shape.head_dim), 0.05, device=cuda)
    angles = torch.rand(point.capacity, shape.head_dim // 2, device=cuda)
    return Inputs(
        torch.randn(tokens, shape.width, device=cuda).to(own),
        caches[0],
        caches[1],
        torch.tensor(rows, dtype=torch.int32, device=cuda),
        angles.cos(),
        angles.sin(),
        steps,
        steps,
    )


def our_work(shape: AttentionShape, point: Point, sm: int, programs: int) -> Work:
    """Return our launches: of a step as in a plan, of a chunk with its keys appended first."""
    append = point.tokens == 1
    use = "decode" if append else WIDE
    tile = load_tiles(sm).tile(use, shape.head_dim, shape.kv_dtype)
    return tile_work(shape, point, tile, programs, append=append)


def tile_work(
    shape: AttentionShape, point: Point, tile: Tile, programs: int, *, append: bool
) -> Work:
    """Return the launches with a tile, the past cut as the rule for pieces says."""
    inputs = make_inputs(shape, point)
    inputs.check(shape)
    tokens = point.rows * point.tokens
    out = torch.empty(
        tokens, shape.heads * shape.head_dim, device="cuda", dtype=DTYPES[shape.dtype]
    )
    tiles = count_tiles(point.tokens, shape.padded_group, PIECE_LINES)
    count = count_pieces(programs, tiles, shape.kv_heads, point.rows)
    pieces = Pieces.empty(count, tokens, shape, out.device) if count > 1 else None
    return lambda: attend(
        shape, inputs, out, longest=point.tokens, tile=tile, pieces=pieces, append=append
    )


def peer_works(shape: AttentionShape, point: Point) -> dict[str, Work]:
    """Return torch's attention with each backend that takes the size: rotated and appended already,
    keys and values in the type of the queries, every query head's own where that is faster."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    own = DTYPES[shape.dtype]
    sizes = (point.rows, shape.kv_heads, point.capacity, shape.head_dim)
    query = torch.randn(point.rows, shape.heads, point.tokens, shape.head_dim, device="cuda").to(
        own
    )
    keys, values = (torch.randn(sizes, device="cuda").to(own) for _ in range(2))
    mask = None
    if point.tokens > 1 and point.past:
        index = torch.arange(point.capacity, device="cuda")
        place = point.past + torch.arange(point.tokens, device="cuda")
        mask = index[None, :] <= place[:, None]
    causal = point.tokens > 1 and not point.past
    # Every query head's own keys, shared by all backends: of 32 rows of 32k they are 17 GB.
    repeated = tuple(each.repeat_interleave(shape.group, 1) for each in (keys, values))

    def works_of(name: str, backend: Any) -> dict[str, Work]:
        found: dict[str, Work] = {}
        for grouped in (True, False):
            wide_keys, wide_values = (keys, values) if grouped else repeated

            def work(
                wide_keys: torch.Tensor = wide_keys,
                wide_values: torch.Tensor = wide_values,
                grouped: bool = grouped,
            ) -> object:
                with sdpa_kernel(backend):
                    return scaled_dot_product_attention(
                        query,
                        wide_keys,
                        wide_values,
                        attn_mask=mask,
                        is_causal=causal,
                        enable_gqa=grouped,
                    )

            try:
                with catch_warnings():
                    simplefilter("ignore")  # torch warns of each reason why it takes none
                    work()
            except RuntimeError:  # the backend does not take this size, mask or grouping
                continue
            found[f"{name}{' grouped' if grouped else ''}"] = work
        return found

    works = {
        **works_of("flash", SDPBackend.FLASH_ATTENTION),
        **works_of("efficient", SDPBackend.EFFICIENT_ATTENTION),
        **works_of("cudnn", SDPBackend.CUDNN_ATTENTION),
    }
    # Many times slower than each of the others, and takes memory of the size of the cache.
    return works or works_of("math", SDPBackend.MATH)


def measure(
    shapes: Sequence[AttentionShape], point: Point, sm: int, programs: int
) -> list[dict[str, Any]]:
    """Return of each shape our time, the best of torch's, and their ratio, from rounds in turns.

    The shapes differ in the type of the cache; torch's has that of the queries.
    """
    ours = {each.kv_dtype: our_work(each, point, sm, programs) for each in shapes}
    timings = time_in_turns({**ours, **peer_works(shapes[0], point)})
    peers = {name: timing for name, timing in timings.items() if name not in ours}
    return [judged(each, point, {"ours": timings[each.kv_dtype], **peers}) for each in shapes]


def judged(shape: AttentionShape, point: Point, timings: Mapping[str, Timing]) -> dict[str, Any]:
    """Return the figures of one point; `ratio` above 1 says that ours is faster."""
    ours = timings["ours"]
    peers = {name: timing for name, timing in timings.items() if name != "ours"}
    best = min(peers, key=lambda name: peers[name].ms) if peers else None
    moved = decode_bytes(shape, point)
    return {
        "rows": point.rows,
        "tokens": point.tokens,
        "past": point.past,
        "cache": shape.kv_dtype,
        "ours": ours.as_dict(),
        "gb_s": gb_s(moved, ours),
        "best": best,
        "peers": {name: timing.as_dict() for name, timing in peers.items()},
        "ratio": peers[best].ms / ours.ms if best is not None else None,
    }


def faults(points: list[dict[str, Any]], copy_gb_s: float) -> list[str]:
    """Return what misses its bar, with the figure."""
    found = []
    for point in points:
        what = f"{point['rows']} x {point['tokens']} behind {point['past']}, {point['cache']} cache"
        ratio = point["ratio"]
        if point["tokens"] > 1:
            bar = PREFILL_RATIO
        elif point["cache"] == "fp8" and point["past"] >= FP8_CONTEXT - 1:
            bar = FP8_RATIO
        else:
            bar = DECODE_RATIO
        if ratio is not None and ratio < bar:
            found.append(f"{what}: {ratio:.2f} of torch's {point['best']}, the bar is {bar}")
        if (point["rows"], point["past"] + 1) == SHARE_POINT and point["cache"] == "fp16":
            share = point["gb_s"] / copy_gb_s
            if point["tokens"] == 1 and share < COPY_SHARE:
                found.append(f"{what}: {share:.2f} of a copy, the bar is {COPY_SHARE}")
    return found


def check_kernel_speed(_job: Job) -> dict[str, Any]:
    """Measure every point on the first GPU; raises CheckFailed with what misses its bar."""
    major, minor = torch.cuda.get_device_capability()
    sm = 10 * major + minor
    programs = PROGRAMS_EACH * torch.cuda.get_device_properties(0).multi_processor_count
    copied = time_in_turns({"copy": copy_work(COPY_BYTES)})["copy"]
    copy_gb_s = gb_s(2 * COPY_BYTES, copied)
    caches = ("fp16", "int8", "fp8") if sm >= FP8_SINCE else ("fp16", "int8")
    shapes = [AttentionShape(HEADS, GROUP, SIZE, "fp16", cache) for cache in caches]
    wanted = [Point(rows, 1, context - 1) for rows in BATCHES for context in CONTEXTS]
    wanted += [Point(1, chunk, past) for chunk in CHUNKS for past in PASTS]
    points = []
    for point in wanted:
        points += measure(shapes, point, sm, programs)
        torch.cuda.empty_cache()
    figures = {"copy_gb_s": copy_gb_s, "copy": copied.as_dict(), "points": points}
    missed = faults(points, copy_gb_s)
    if missed:
        raise CheckFailed("; ".join(missed), figures)
    return figures
