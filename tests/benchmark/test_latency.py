"""The grid, the least work of a step, and a whole measurement of a real engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgellama.benchmark.ceiling_meter import CeilingError, CeilingMeter, Ceilings
from edgellama.benchmark.integer_products import product_of_bytes
from edgellama.benchmark.latency import measure_latency
from edgellama.benchmark.latency_grid import MeasurementError, grid_of
from edgellama.benchmark.series import ratio, series
from edgellama.benchmark.wire_cost import message_seconds
from edgellama.benchmark.work import decode_work, prefill_work, weight_bytes
from edgellama.runtime.event import Delta
from edgellama.runtime.manifest import Manifest, read_manifest


def silent(_stage: str, _done: int, _total: int) -> None:
    """Show nothing."""


@pytest.fixture
def manifest(small_engine: Path) -> Manifest:
    return read_manifest(small_engine)


def test_a_series_has_its_spread() -> None:
    found = series([2.0, 1.0, 4.0])
    assert found == {"n": 3, "median": 2.0, "low": 1.0, "high": 4.0, "spread": 1.5}
    assert series([0.0])["spread"] is None
    assert ratio([2.0, 9.0], [1.0, 3.0])["median"] == 2.5
    with pytest.raises(ValueError, match="no value"):
        series([])


def test_the_grid_follows_the_engine(manifest: Manifest) -> None:
    kv = manifest.kv
    grid = grid_of(manifest, rounds=2)
    assert grid.rows[0] == 1 and grid.rows[-1] == kv.slots
    assert grid.contexts[-1] == kv.capacity
    assert grid_of(manifest, prompts=(8, 4, 8), rounds=1).prompts == (4, 8)
    for wrong, what in (
        ({"prompts": (kv.capacity,)}, f"a slot holds {kv.capacity}"),
        ({"rows": (kv.slots + 1,)}, f"the engine has {kv.slots} slots"),
        ({"contexts": (kv.capacity + 1,)}, f"contexts has {kv.capacity + 1}"),
    ):
        with pytest.raises(MeasurementError, match=what):
            grid_of(manifest, rounds=1, **wrong)  # type: ignore[arg-type]


def test_the_work_of_a_step_is_counted_by_hand(manifest: Manifest) -> None:
    """The engine is float32 with untied tables, so that every byte can be counted."""
    model, kv = manifest.model, manifest.kv
    linears = model.num_layers * (
        model.hidden_size * (model.query_size + 2 * model.kv_size)
        + model.query_size * model.hidden_size
        + 3 * model.hidden_size * model.intermediate_size
    )
    head = model.hidden_size * model.vocab_size
    norms = (2 * model.num_layers + 1) * model.hidden_size
    assert weight_bytes(manifest) == 4 * (linears + head + norms)
    one, two = decode_work(manifest, 1, 10), decode_work(manifest, 2, 10)
    assert two.bytes - one.bytes == 10 * kv.bytes_per_token
    attention = model.num_layers * 10 * 4 * model.query_size
    assert (
        one.operations == 2 * (linears + head) + attention and two.operations == 2 * one.operations
    )
    chunk = manifest.profile.limits.prefill_chunk
    prompt = prefill_work(manifest, chunk + 1)
    assert prompt.bytes == 2 * weight_bytes(manifest) + (2 * chunk + 1) * kv.bytes_per_token
    pairs = (chunk + 1) * (chunk + 2) // 2
    scores = pairs * model.num_layers * 4 * model.query_size
    assert prompt.operations == 2 * (chunk + 1) * linears + scores + 2 * head
    assert one.intensity == one.operations / one.bytes


def test_a_tied_table_is_read_once_like_an_untied_one(manifest: Manifest) -> None:
    tied = replace(manifest, model=replace(manifest.model, tie_word_embeddings=True))
    untied = replace(manifest, model=replace(manifest.model, tie_word_embeddings=False))
    assert weight_bytes(tied) == weight_bytes(untied)


def test_the_fastest_type_is_the_ceiling() -> None:
    best = Ceilings(10.0, {"fp32": 100.0, "int8": 400.0})
    assert best.matrix_used == "int8"
    assert best.read_seconds(10**10) == 1.0 and best.matrix_seconds(4 * 10**11) == 1.0


def test_ceilings_are_measured_and_a_dead_process_is_said() -> None:
    with CeilingMeter(1) as meter:
        found = meter.measure(1 << 20)
        assert found.read_gb_s > 0 and found.matrix_gops["fp32"] > 0
        assert {"bf16", "int8"} <= set(found.matrix_gops), "torch and onnxruntime are installed"
        meter._process.kill()
        with pytest.raises(CeilingError, match="ended with -9"):
            meter.measure(1 << 20)


def test_bytes_are_multiplied_as_an_engine_does() -> None:
    (product,) = product_of_bytes(64, 1)()  # type: ignore[misc]
    assert product.dtype == "int32" and (product == 64).all()


def test_messages_cost_time() -> None:
    assert message_seconds([Delta(0, (1,), "a", ())] * 10) > 0


def test_a_real_engine_is_measured(small_engine: Path, manifest: Manifest) -> None:
    slots, capacity = manifest.kv.slots, manifest.kv.capacity
    stages: list[tuple[int, int]] = []
    found = measure_latency(
        small_engine,
        prompts=(4, 8),
        rows=(1, slots),
        contexts=(capacity,),
        output_tokens=4,
        rounds=2,
        progress=lambda _stage, done, total: stages.append((done, total)),
    )
    assert stages[-1] == (18, 18) and stages == sorted(stages)
    cells = [(row["prompt_tokens"], row["rows"]) for row in found["requests"]]
    assert cells == [(4, 1), (4, slots), (8, 1), (8, slots)]
    for row in found["requests"]:
        assert row["ttft_ms"]["n"] == 2 * row["rows"] and row["rounds"] == 2
        assert row["itl_ms"]["n"] == 2 * row["rows"] * 3
        for name in ("prefill_share", "decode_share", "tokens_per_s_user"):
            assert row[name]["n"] == 2 and 0 < row[name]["low"] <= row[name]["high"]
        assert all(ms >= 0 for ms in row["step_ms"].values()), row["step_ms"]
        assert row["step_ms"]["run"] > 0 and row["step_ms"]["wire"] > 0
    for step in found["steps"]:
        assert step["context"] == capacity and step["share"]["n"] == 2
        assert step["gb_s"]["median"] > 0 and step["bytes"] > weight_bytes(manifest)
    assert found["ceilings"]["read_gb_s"]["n"] == 2 * 6
    assert found["environment"]["load_average"] >= 0
    without = measure_latency(
        small_engine,
        rows=(1,),
        prompts=(4,),
        contexts=(8,),
        rounds=1,
        ceilings=False,
        progress=silent,
    )
    assert without["ceilings"] is None and "decode_share" not in without["requests"][0]


def test_what_there_is_no_time_to_repeat_keeps_its_first_round(small_engine: Path) -> None:
    stages: list[tuple[int, int]] = []
    found = measure_latency(
        small_engine,
        rows=(1,),
        prompts=(4,),
        contexts=(8,),
        output_tokens=4,
        rounds=3,
        minutes=0.0,
        progress=lambda _stage, done, total: stages.append((done, total)),
    )
    assert stages[-1] == (2, 2)
    assert found["requests"][0]["rounds"] == 1 and found["steps"][0]["share"]["n"] == 1
    assert found["ceilings"]["read_gb_s"]["n"] == 2
