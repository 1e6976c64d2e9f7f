"""Check `linear-int4`: the INT4 linear beside a copy of its bytes, and right."""

from __future__ import annotations

from typing import Any

import torch

from edgellama.benchmark.check import Job
from edgellama.benchmark.gpu_timing import Timing, Work, copy_work, gb_s, time_in_turns
from edgellama.benchmark.outcome import CheckFailed
from edgellama.optimize.kernels.int4_layout import pack_codes
from edgellama.optimize.kernels.int4_spec import TILES
from edgellama.optimize.kernels.linear_launch import multiply

# Inputs x outputs of Llama 3 8B: qkv, output, gate and up, down.
SHAPES = ((4096, 6144), (4096, 4096), (4096, 28672), (14336, 4096))
ROWS = (1, 2, 4, 8, 16)
COPY_BYTES = 1 << 30
COPY_SHARE = 0.75  # at one row, over all shapes together
_TOLERANCE = 2.0**-8  # of the largest sum: two roundings of float16 and float32 sums


def linear_bytes(inputs: int, outputs: int, rows: int) -> int:
    """Return what must move: codes, scales, inputs and outputs."""
    return outputs * (inputs // 2 + inputs // 128 * 2) + 2 * rows * (inputs + outputs)


def make_work(inputs: int, outputs: int, rows: int) -> dict[str, Work]:
    """Return the linear with each tile, on weights that no cache of a GPU holds all of."""
    generator = torch.Generator().manual_seed(inputs)
    codes = torch.randint(-8, 8, (outputs, inputs), dtype=torch.int8, generator=generator)
    scales = (torch.rand(outputs, inputs // 128, generator=generator) / 100).half().cuda()
    x = torch.randn(rows, inputs, generator=generator).half().cuda()
    packed = torch.from_numpy(pack_codes(codes.numpy())).cuda()
    weight = codes.cuda().float() * scales.float().repeat_interleave(128, 1)
    wanted = x.float() @ weight.T
    works: dict[str, Work] = {}
    for number, tile in enumerate(TILES, 1):
        out = torch.empty(rows, outputs, dtype=torch.float16, device="cuda")

        def work(out: torch.Tensor = out, tile: Any = tile) -> None:
            multiply(x, packed, scales, out, tile)

        work()
        error = float((out.float() - wanted).abs().max() / wanted.abs().max())
        if not error <= _TOLERANCE:
            raise CheckFailed(
                f"tile {number} with {rows} rows of {inputs} x {outputs}: the error is {error:.2e} "
                f"of the largest sum, {_TOLERANCE:.2e} may be"
            )
        works[f"tile {number}"] = work
    half = weight.half()
    works["torch fp16"] = lambda: torch.nn.functional.linear(x, half)
    return works


def share_of_copy(sizes: list[int], timings: list[Timing], copy_gb_s: float) -> float:
    """Return the bandwidth of several linears one after another, as a share of a copy's."""
    return sum(sizes) / sum(each.ms for each in timings) / 1e6 / copy_gb_s


def check_linear_int4(_job: Job) -> dict[str, Any]:
    """Measure every shape on the first GPU; raises CheckFailed below the bar."""
    copied = time_in_turns({"copy": copy_work(COPY_BYTES)})["copy"]
    copy_gb_s = gb_s(2 * COPY_BYTES, copied)
    points = []
    alone: list[tuple[int, Timing]] = []
    for inputs, outputs in SHAPES:
        for rows in ROWS:
            timings = time_in_turns(make_work(inputs, outputs, rows))
            ours = {name: each for name, each in timings.items() if name.startswith("tile")}
            best = min(ours, key=lambda name: ours[name].ms)
            moved = linear_bytes(inputs, outputs, rows)
            if rows == 1:
                alone.append((moved, ours[best]))
            points.append(
                {
                    "inputs": inputs,
                    "outputs": outputs,
                    "rows": rows,
                    "best": best,
                    "gb_s": gb_s(moved, ours[best]),
                    "ratio_to_fp16": timings["torch fp16"].ms / ours[best].ms,
                    "timings": {name: each.as_dict() for name, each in timings.items()},
                }
            )
            torch.cuda.empty_cache()
    share = share_of_copy([size for size, _ in alone], [each for _, each in alone], copy_gb_s)
    figures = {"copy_gb_s": copy_gb_s, "share_at_one_row": share, "points": points}
    if share < COPY_SHARE:
        raise CheckFailed(f"one row: {share:.2f} of a copy, the bar is {COPY_SHARE}", figures)
    return figures
