"""The checks of the kernels: their code in the interpreter, their figures on numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")
pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import onnx_ir as ir
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "optimize" / "kernels"))  # the interpreter

from interpreter import correct

from edgellama.benchmark import gpu_kernels
from edgellama.benchmark.gpu_kernel_speed import Point, decode_bytes, faults, judged
from edgellama.benchmark.gpu_kernel_tiles import POINTS, as_toml, candidates
from edgellama.benchmark.gpu_linear_speed import linear_bytes, share_of_copy
from edgellama.benchmark.gpu_model_step import sizes
from edgellama.benchmark.gpu_onnxruntime import run_ms
from edgellama.benchmark.gpu_timing import Timing, gb_s, timing_of
from edgellama.benchmark.outcome import CheckFailed
from edgellama.optimize.kernels.attention_shape import AttentionShape
from edgellama.optimize.kernels.reference import Case
from edgellama.profiles.kernels import HEAD_SIZES, LARGEST_GROUP

LLAMA_8B = AttentionShape(8, 4, 128, "fp16", "fp16")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the kernels in the interpreter, on rows that it can be waited for."""
    correct()
    monkeypatch.setattr(gpu_kernels, "CAPACITY", 64)
    monkeypatch.setattr(gpu_kernels, "ROWS", ((1, 1, 0), (0, 0, 0), (6, 9, 30), (3, 1, 63)))
    yield


@pytest.mark.parametrize(("kv", "size"), [("fp16", 64), ("int8", 32), ("fp8", 32)])
def test_the_check_of_every_kernel_passes_in_the_interpreter(kv: str, size: int) -> None:
    shape = AttentionShape(2, 3, size, "fp16", kv)
    found = gpu_kernels.check_shape(CPU, 89, shape)
    ways = len(gpu_kernels.WAYS) - (size == 32)  # which has no wide tiles
    assert found["cases"] == len(gpu_kernels.KINDS) * ways
    assert all(0 < error <= 1 for error in found["error_over_tolerance"].values())


def test_a_wrong_kernel_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a kernel that gets the rows of the next position."""
    right = gpu_kernels.inputs_on

    def shifted(case: Case, device: Any) -> Any:
        case.rows[2, 3] += 1
        return right(case, device)

    monkeypatch.setattr(gpu_kernels, "inputs_on", shifted)
    with pytest.raises(CheckFailed, match=r"decode of AttentionShape.*the error is"):
        gpu_kernels.check_shape(CPU, 89, AttentionShape(1, 2, 16, "fp16", "fp16"))


@pytest.mark.parametrize(("sm", "caches"), [(80, 2), (90, 3)])
def test_every_shape_is_checked(sm: int, caches: int) -> None:
    wanted = list(gpu_kernels.shapes(sm))
    assert len(set(wanted)) == len(wanted) == 2 * caches * len(gpu_kernels.HEADS)
    assert {shape.head_dim for shape in wanted} == set(HEAD_SIZES)
    groups = {shape.group for shape in wanted}
    assert min(groups) == 1 and max(groups) == LARGEST_GROUP and len(groups) > 4
    assert any(shape.kv_dtype == "fp8" for shape in wanted) == (caches == 3)


def test_the_bytes_of_a_decode_step() -> None:
    """Keys and values of 8 heads of 128 in float16, of 8 rows of 8192, and qkv and the result."""
    moved = decode_bytes(LLAMA_8B, Point(8, 1, 8191))
    assert moved == 8 * 8192 * 2 * 8 * 128 * 2 + 2 * 8 * (6144 + 4096)
    narrow = AttentionShape(8, 4, 128, "fp16", "fp8")
    assert decode_bytes(narrow, Point(8, 1, 8191)) == 8 * 8192 * 2 * 8 * 128 + 2 * 8 * 10240


def point(cache: str, tokens: int, rows: int, context: int, **timings: float) -> dict[str, Any]:
    shape = AttentionShape(8, 4, 128, "fp16", cache)
    made = {name: Timing(ms, ms * 0.9, ms * 1.1) for name, ms in timings.items()}
    return judged(shape, Point(rows, tokens, context - tokens), made)


def test_the_peer_is_the_fastest_one() -> None:
    found = point("fp16", 1, 8, 8192, ours=2.0, flash=3.0, math=9.0)
    assert found["best"] == "flash" and found["ratio"] == 1.5
    assert found["gb_s"] == pytest.approx(decode_bytes(LLAMA_8B, Point(8, 1, 8191)) / 2e6)
    assert point("fp16", 1, 8, 8192, ours=2.0)["ratio"] is None


@pytest.mark.parametrize(
    ("cache", "tokens", "context", "ratio", "missed"),
    [
        ("fp16", 1, 1024, 1.0, False),
        ("fp16", 1, 1024, 0.99, True),
        ("fp8", 1, 1024, 1.0, False),
        ("fp8", 1, 8192, 1.59, True),
        ("fp8", 1, 8192, 1.6, False),
        ("fp8", 1, 32768, 1.59, True),
        ("int8", 1, 8192, 1.0, False),
        ("fp16", 512, 4608, 0.7, False),
        ("fp16", 512, 4608, 0.69, True),
    ],
)
def test_the_bars_of_speed(
    cache: str, tokens: int, context: int, ratio: float, missed: bool
) -> None:
    found = point(cache, tokens, 1, context, ours=1.0, flash=ratio)
    assert bool(faults([found], 1.0)) == missed
    if missed:
        assert f"{ratio:.2f} of torch's flash" in faults([found], 1.0)[0]


@pytest.mark.parametrize(("share", "missed"), [(0.81, False), (0.79, True)])
def test_the_bar_of_the_bandwidth(share: float, missed: bool) -> None:
    found = point("fp16", 1, 8, 8192, ours=1.0, flash=2.0)
    assert bool(faults([found], found["gb_s"] / share)) == missed


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20))
def test_a_timing_is_a_median_with_its_spread(rounds: list[float]) -> None:
    found = timing_of(rounds)
    assert found.low <= found.ms <= found.high
    assert gb_s(1_000_000, found) == pytest.approx(1 / found.ms)


def test_the_bytes_of_a_linear_and_its_share() -> None:
    moved = linear_bytes(4096, 6144, 1)
    assert moved == 6144 * 2048 + 6144 * 32 * 2 + 2 * (4096 + 6144)
    assert share_of_copy([moved, moved], [Timing(1, 1, 1)] * 2, moved / 1e6) == pytest.approx(1)


def test_the_weights_of_a_step() -> None:
    layer, small, large = sizes("fp16")
    per_layer = 4096 * (6144 + 4096 + 3 * 14336) * 2
    assert layer.bytes == per_layer
    assert large.bytes == 8 * per_layer + 2 * 128256 * 4096
    assert small.bytes < large.bytes


def test_candidates_are_tiles_that_the_tables_can_hold() -> None:
    import tomllib

    for use in POINTS:
        found = list(candidates(use))
        assert len(set(found)) == len(found) > 20
        assert tomllib.loads(f"tile = {as_toml(found[0])}")["tile"] == vars(found[0])


def test_the_other_attention_runs() -> None:
    """On a CPU in float32; on a GPU the provider and the type differ."""
    milliseconds = run_ms("CPUExecutionProvider", "cpu", 2, 32, ir.DataType.FLOAT)
    assert np.isfinite(milliseconds) and milliseconds > 0
