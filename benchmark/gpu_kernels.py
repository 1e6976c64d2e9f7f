"""Check `kernels`: each kernel of the fused attention against float64, on the GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch

from edgellama.benchmark.check import Job
from edgellama.benchmark.in_processes import in_processes
from edgellama.benchmark.outcome import CheckFailed
from edgellama.optimize.kernels.attention_shape import AttentionShape
from edgellama.optimize.kernels.launch import DTYPES, Inputs, Pieces, attend
from edgellama.optimize.kernels.reference import Case, expected, make_case, tolerance, wide
from edgellama.optimize.kernels.tile import Tile
from edgellama.optimize.kernels.tiles import USES, WIDE, WIDE_HEAD_SIZES, load_tiles
from edgellama.profiles.kernels import FP8_SINCE

SLOTS, CAPACITY = 8, 640
# (slot, tokens, tokens held): a first token, an idle row, a chunk behind a past, a full slot.
ROWS = ((1, 1, 0), (0, 0, 0), (6, 97, 300), (3, 1, CAPACITY - 1), (2, 5, 511))
# Name -> whether the past is cut, whether the append is a launch of its own, whose tile.
WAYS = {
    "decode": (1, True, "decode"),
    "pieces": (5, True, "decode"),
    "prefill": (1, True, "prefill"),
    "append first": (1, False, "prefill"),
    "wide": (1, False, WIDE),  # of head sizes that have such tiles
}
KINDS: dict[str, Callable[[Case], None]] = {
    "random": lambda case: None,
    "large logits": lambda case: _scale(case, slice(0, case.shape.heads), 8.0),
    "equal keys": lambda case: _scale(case, slice(case.shape.heads, -case.shape.kv_heads), 0.0),
}


def _scale(case: Case, heads: slice, factor: float) -> None:
    """Multiply some heads of qkv."""
    lines = case.qkv.reshape(len(case.qkv), -1, case.shape.head_dim)
    lines[:, heads] = (wide(lines[:, heads]) * factor).astype(lines.dtype)


# Head sizes with query heads to a key head, Llama 3's among them: each way of each shape is
# compiled once, which takes a second, so not every pair.
HEADS = ((16, 2), (32, 5), (64, 1), (64, 4), (128, 3), (128, 4), (128, 8))


def shapes(sm: int) -> Iterator[AttentionShape]:
    """Yield every type and cache that a GPU has, with every head size and groups of 1 to 8."""
    caches = ("", "int8", "fp8") if sm >= FP8_SINCE else ("", "int8")
    for dtype, cache, (size, group) in product(("fp16", "bf16"), caches, HEADS):
        yield AttentionShape(2, group, size, dtype, cache or dtype)


def inputs_on(case: Case, device: torch.device) -> Inputs:
    """Copy a case to a device."""

    def tensor(array: np.ndarray[Any, Any], dtype: torch.dtype) -> torch.Tensor:
        raw = torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8).copy())
        return raw.view(dtype).reshape(array.shape).to(device)

    own, kept = DTYPES[case.shape.dtype], DTYPES[case.shape.kv_dtype]
    return Inputs(
        tensor(case.qkv, own),
        tensor(case.past_key, kept),
        tensor(case.past_value, kept),
        tensor(case.rows, torch.int32),
        tensor(case.cos, torch.float32),
        tensor(case.sin, torch.float32),
        tensor(case.key_scale, torch.float32),
        tensor(case.value_scale, torch.float32),
    )


def run_on(
    case: Case, device: torch.device, tile: Tile, *, pieces: int, append: bool
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Launch a case; what is left of the caches of the case is not read back."""
    shape = case.shape
    inputs = inputs_on(case, device)
    inputs.check(shape)
    tokens = len(case.qkv)
    out = torch.full((tokens, shape.heads * shape.head_dim), torch.nan, device=device)
    out = out.to(DTYPES[shape.dtype])
    room = Pieces.empty(pieces, tokens, shape, device) if pieces > 1 else None
    longest = int(case.rows[:, 2].max())
    attend(shape, inputs, out, longest=longest, tile=tile, pieces=room, append=append)
    return np.asarray(out.to(torch.float64).cpu().numpy())


def largest_error(case: Case, device: torch.device, tiles: dict[str, Tile]) -> dict[str, float]:
    """Return each way's largest error as a share of what roundings explain; NaN stays NaN."""
    found = expected(case)
    bar = tolerance(case, found)
    errors = {}
    for name, (pieces, append, use) in WAYS.items():
        if use not in tiles:
            continue
        said = run_on(deepcopy(case), device, tiles[use], pieces=pieces, append=append)
        errors[name] = float(np.abs(said - found.attention).max() / bar)
    return errors


def check_kernels(_job: Job) -> dict[str, Any]:
    """Run everything on the first GPU; raises CheckFailed with the worst case.

    Each shape in a process: nearly all of the time goes into compiling its kernels.
    """
    major, minor = torch.cuda.get_device_capability()
    sm = 10 * major + minor
    found = in_processes(partial(check_shape, torch.device("cuda"), sm), list(shapes(sm)))
    worst = {way: max(each["error_over_tolerance"].get(way, 0.0) for each in found) for way in WAYS}
    return {"cases": sum(each["cases"] for each in found), "error_over_tolerance": worst}


def check_shape(device: torch.device, sm: int, shape: AttentionShape) -> dict[str, Any]:
    """Return the largest error of each way and how many cases there were."""
    tiles = load_tiles(sm)
    worst: dict[str, float] = {}
    cases = 0
    wide = (WIDE,) if shape.head_dim in WIDE_HEAD_SIZES else ()
    chosen = {use: tiles.tile(use, shape.head_dim, shape.kv_dtype) for use in (*USES, *wide)}
    for kind, change in KINDS.items():
        case = make_case(shape, list(ROWS), CAPACITY, slots=SLOTS, seed=cases)
        change(case)
        for way, error in largest_error(case, device, chosen).items():
            cases += 1
            worst[way] = max(worst.get(way, 0.0), error)
            if not error <= 1:
                raise CheckFailed(
                    f"{way} of {shape} with {kind}: the error is {error:.2f} times what its "
                    "roundings explain",
                    {"worst": worst},
                )
    return {"cases": cases, "error_over_tolerance": worst}
