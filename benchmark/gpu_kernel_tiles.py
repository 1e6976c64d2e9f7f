"""Check `kernel-tiles`: time candidates, and say which are best as the tables have them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch

from edgellama.benchmark.check import Job
from edgellama.benchmark.gpu_kernel_speed import GROUP, HEADS, SIZE, Point, tile_work
from edgellama.benchmark.gpu_timing import Work, time_in_turns
from edgellama.benchmark.in_processes import in_processes
from edgellama.optimize.kernels.attention_shape import AttentionShape
from edgellama.optimize.kernels.tile import Tile
from edgellama.optimize.kernels.tiles import WIDE
from edgellama.profiles.kernels import FP8_SINCE, PROGRAMS_EACH

Task = tuple[AttentionShape, str, Tile]
# What a tile is chosen at: decoding with a long past, and a chunk behind one.
POINTS = {
    "decode": Point(8, 1, 8191),
    "prefill": Point(1, 512, 4096),
    WIDE: Point(1, 2048, 4096),  # keys are appended first
}


def candidates(use: str) -> Iterator[Tile]:
    """Yield what is tried, shared memory beyond the limit of a plugin too."""
    lines = {"decode": (16,), "prefill": (32, 64, 128)}.get(use, (64, 128))
    ahead = (2, 3, 4, 5) if use == "decode" else (2, 3, 4)
    for block_m, block_n, warps, stages in product(lines, (32, 64, 128), (4, 8), ahead):
        yield Tile(block_m, block_n, 16 if use == "decode" else 32, warps, stages)


def as_toml(tile: Tile) -> str:
    """Return a tile as a line of optimize/kernels/tiles/ has it."""
    fields = ("block_m", "block_n", "new_n", "warps", "stages")
    return "{ " + ", ".join(f"{name} = {getattr(tile, name)}" for name in fields) + " }"


def fits(task: Task) -> bool:
    """Run one launch; returns whether the GPU takes the tile. What is compiled is kept on disk."""
    try:
        _work(task)()
        torch.cuda.synchronize()
    except Exception:  # Triton names no class for what does not fit the GPU
        return False
    return True


def check_kernel_tiles(_job: Job) -> dict[str, Any]:
    """Time every candidate on the first GPU; nothing is a fault here."""
    major, minor = torch.cuda.get_device_capability()
    caches = ("fp16", "int8", "fp8") if 10 * major + minor >= FP8_SINCE else ("fp16", "int8")
    shapes = {cache: AttentionShape(HEADS, GROUP, SIZE, "fp16", cache) for cache in caches}
    tasks = [
        (shapes[cache], use, tile)
        for cache, use in product(caches, POINTS)
        for tile in candidates(use)
    ]
    taken = dict(zip(tasks, in_processes(fits, tasks), strict=True))
    found: dict[str, Any] = {}
    for cache, use in product(caches, POINTS):
        times: dict[str, float] = {}
        tiles = list(candidates(use))
        for tile in tiles:
            if taken[shapes[cache], use, tile]:
                works = {"tile": _work((shapes[cache], use, tile))}
                times[as_toml(tile)] = time_in_turns(works)["tile"].ms
                torch.cuda.empty_cache()
        best = sorted(times, key=times.__getitem__)[:3]
        print(cache, use, *(f"{tile} {times[tile]:.4f} ms" for tile in best), flush=True)
        found[f"{use}.{SIZE} {cache}"] = {
            "best": {tile: times[tile] for tile in best},
            "tried": len(times),
            "refused": len(tiles) - len(times),
        }
    return found


def _work(task: Task) -> Work:
    shape, use, tile = task
    programs = PROGRAMS_EACH * int(torch.cuda.get_device_properties(0).multi_processor_count)
    return tile_work(shape, POINTS[use], tile, programs, append=use != WIDE)
