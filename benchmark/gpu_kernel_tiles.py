"""Check `kernel-tiles`: time candidates, and say which are best as the tables have them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch

from edgellama.benchmark.check import Job
from edgellama.benchmark.gpu_kernel_speed import GROUP, HEADS, SIZE, Point, make_inputs
from edgellama.benchmark.gpu_timing import Work, time_in_turns
from edgellama.optimize.kernels.attention_shape import AttentionShape
from edgellama.optimize.kernels.launch import DTYPES, Pieces, attend
from edgellama.optimize.kernels.pieces import PIECE_LINES, count_pieces, count_tiles
from edgellama.optimize.kernels.tile import Tile
from edgellama.profiles.kernels import FP8_SINCE, PROGRAMS_EACH

# What a tile is chosen at: decoding with a long past, and a chunk behind one.
POINTS = {"decode": Point(8, 1, 8191), "prefill": Point(1, 512, 4096)}


def candidates(use: str) -> Iterator[Tile]:
    """Yield what is tried, shared memory beyond the limit of a plugin too."""
    lines = (16,) if use == "decode" else (32, 64, 128)
    for block_m, block_n, warps, stages in product(lines, (32, 64, 128), (4, 8), (2, 3, 4, 5)):
        yield Tile(block_m, block_n, 16 if use == "decode" else 32, warps, stages)


def tile_work(shape: AttentionShape, point: Point, tile: Tile, programs: int) -> Work:
    """Return one launch with a tile."""
    inputs = make_inputs(shape, point)
    tokens = point.rows * point.tokens
    width = shape.heads * shape.head_dim
    out = torch.empty(tokens, width, device="cuda", dtype=DTYPES[shape.dtype])
    tiles = count_tiles(point.tokens, shape.padded_group, PIECE_LINES)
    count = count_pieces(programs, tiles, shape.kv_heads, point.rows)
    pieces = Pieces.empty(count, tokens, shape, out.device) if count > 1 else None
    return lambda: attend(shape, inputs, out, longest=point.tokens, tile=tile, pieces=pieces)


def as_toml(tile: Tile) -> str:
    """Return a tile as a line of optimize/kernels/tiles/ has it."""
    fields = ("block_m", "block_n", "new_n", "warps", "stages")
    return "{ " + ", ".join(f"{name} = {getattr(tile, name)}" for name in fields) + " }"


def check_kernel_tiles(_job: Job) -> dict[str, Any]:
    """Time every candidate on the first GPU; nothing is a fault here."""
    major, minor = torch.cuda.get_device_capability()
    programs = PROGRAMS_EACH * torch.cuda.get_device_properties(0).multi_processor_count
    caches = ("fp16", "int8", "fp8") if 10 * major + minor >= FP8_SINCE else ("fp16", "int8")
    found: dict[str, Any] = {}
    for cache, (use, point) in product(caches, POINTS.items()):
        shape = AttentionShape(HEADS, GROUP, SIZE, "fp16", cache)
        times: dict[str, float] = {}
        refused = 0
        for tile in candidates(use):
            try:
                works = {"tile": tile_work(shape, point, tile, programs)}
                times[as_toml(tile)] = time_in_turns(works)["tile"].ms
            except Exception:  # Triton names no class for what does not fit the GPU
                refused += 1
            torch.cuda.empty_cache()
        best = sorted(times, key=times.__getitem__)[:3]
        found[f"{use}.{SIZE} {cache}"] = {
            "best": {tile: times[tile] for tile in best},
            "tried": len(times),
            "refused": refused,
        }
    return found
