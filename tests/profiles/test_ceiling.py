"""The parts of a plan and the decode ceiling, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llamas import LLAMA_1B, LLAMA_8B, MODELS

from edgellama.profiles.ceiling import decode_step
from edgellama.profiles.plan import make_plan
from edgellama.profiles.profile import load_profile, profile_names


def test_llama_8b_on_an_l4_by_hand() -> None:
    plan = make_plan(LLAMA_8B, load_profile("l4-8b"))
    # Per layer: qkv [4096,6144], out [4096,4096], gate and up [4096,14336], down [14336,4096].
    linears = 32 * (4096 * 6144 + 4096 * 4096 + 3 * 4096 * 14336)
    assert plan.linear_bytes == linears // 2 + linears // 128 * 2  # scales in float16
    table = 128256 * 4096 * 2
    assert plan.table_bytes == 2 * table
    assert plan.norm_bytes == 65 * 4096 * 2
    assert plan.weight_bytes == plan.linear_bytes + plan.table_bytes + plan.norm_bytes
    assert plan.kv_bytes == 16 * 4096 * 2 * 32 * 8 * 128 * 2
    # 512 rows of a chunk, three times gate and up; the mask; 16 rows of logits in float32.
    assert plan.hidden_bytes == 512 * 2 * 3 * 2 * 14336
    assert plan.score_bytes == 512 * 4096
    assert plan.logit_bytes == 16 * 128256 * 4
    assert plan.ceiling is not None
    # One of the tables is gathered row by row.
    assert plan.ceiling.first.bytes == plan.weight_bytes - table
    assert plan.ceiling.full.bytes == plan.weight_bytes - table + plan.kv_bytes
    assert plan.ceiling.first.ms == pytest.approx(4.651e9 / 300e9 * 1e3, rel=1e-3)
    assert plan.ceiling.full.tokens_per_s == pytest.approx(16 / 0.04414, rel=1e-3)


def test_a_tied_head_is_read_once() -> None:
    plan = make_plan(LLAMA_1B, load_profile("l4-1b"))
    assert plan.ceiling is not None
    assert plan.ceiling.first.bytes == plan.weight_bytes


def test_attention_without_layers_of_its_own_keeps_its_scores() -> None:
    profile = load_profile("orin-nano-1b")
    plan = make_plan(LLAMA_1B, profile)
    # 128 rows, 32 heads, 4096 positions: scores before and after the softmax, and the mask.
    assert plan.score_bytes == 128 * 4096 * (32 * 8 + 1)
    many = replace(profile, limits=replace(profile.limits, slots=256))
    assert make_plan(LLAMA_1B, many).score_bytes == 256 * 4096 * (32 * 8 + 1)


def test_a_cpu_has_no_ceiling() -> None:
    assert make_plan(LLAMA_1B, load_profile("cpu-1b")).ceiling is None


@pytest.mark.parametrize("name", sorted(set(profile_names()) - {"cpu-tiny"}))
def test_the_parts_make_the_whole(name: str) -> None:
    profile = load_profile(name)
    plan = make_plan(MODELS[profile.model], profile)
    assert plan.linear_bytes + plan.table_bytes + plan.norm_bytes == plan.weight_bytes
    assert plan.hidden_bytes + plan.score_bytes + plan.logit_bytes == plan.activation_bytes
    weights = plan.weight_bytes + plan.batch_bytes
    assert plan.total_bytes == weights + plan.kv_bytes + plan.activation_bytes


@given(
    weights=st.integers(1, 10**12),
    rows=st.integers(1, 512),
    context=st.integers(0, 131072),
    bandwidth=st.floats(1.0, 10000.0),
)
def test_more_rows_never_cost_throughput(
    weights: int, rows: int, context: int, bandwidth: float
) -> None:
    """The weights are read once for all rows."""
    few = decode_step(weights, 1024, rows, context, bandwidth)
    more = decode_step(weights, 1024, rows + 1, context, bandwidth)
    assert more.ms >= few.ms
    assert more.tokens_per_s >= few.tokens_per_s * (1 - 1e-9)
    assert few.tokens_per_s * few.ms == pytest.approx(rows * 1e3)
