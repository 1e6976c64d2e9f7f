"""The checks of a GPU on doubles: the memory of the host, and TensorRT as it was recorded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama.benchmark import gpu_latency, gpu_numerics
from edgellama.benchmark.gpu_agreement import compare_engines
from edgellama.benchmark.gpu_copies import check_device, copy_gb_s
from edgellama.benchmark.gpu_serving import serve_together
from edgellama.benchmark.outcome import CheckFailed, CheckSkipped
from edgellama.optimize.expectation import Expectation
from edgellama.profiles.plan import make_plan
from edgellama.profiles.profile import load_profile
from edgellama.runtime.engine import Engine
from edgellama.runtime.manifest import Manifest, record_files, write_manifest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))  # the doubles of GPU and TensorRT

from host_cuda import HostCuda
from recorded_tensorrt import Record
from small_llama import CHUNK, SLOTS, VOCAB, expected_logits, tokens


@given(st.integers(1, 1 << 30), st.integers(1, 100), st.floats(1e-6, 1e3))
def test_a_copy_moves_each_byte_twice(size: int, copies: int, seconds: float) -> None:
    rate = copy_gb_s(size, copies, seconds)
    assert rate * 1e9 * seconds == pytest.approx(2 * size * copies)


def test_the_share_is_the_copy_of_as_many_bytes_over_the_step() -> None:
    from edgellama.profiles.model import ModelConfig

    model = ModelConfig(1000, 256, 512, 2, 4, 2, 64, 4096, 1e-5, 1e4, None, True)
    plan = make_plan(model, load_profile("l4-1b"))
    found = gpu_latency.decode_share(plan, rows=4, context=100, step_ms=2.0, copy_gb_s=1.0)
    # The embedding is the head's table, which is read; K and V of 2 layers, 2 heads of 64 in fp16.
    assert found["bytes"] == plan.weight_bytes + 4 * 100 * (2 * 2 * 2 * 64 * 2)
    assert found["copy_ms"] == pytest.approx(found["bytes"] / 1e9 * 1e3)
    assert found["share"] == pytest.approx(found["copy_ms"] / 2.0)
    assert gpu_latency.decode_share(plan, 1, 1, None, 1.0)["share"] is None


def test_the_cuda_check_passes_on_a_device_that_keeps_the_rules() -> None:
    cuda = HostCuda(Record())
    found = check_device(cuda, largest=1 << 16)
    assert found["buffer_bytes"] == 1 << 16
    assert found["copy_gb_s"] > 0 and found["to_device_gb_s"] > 0 and found["to_host_gb_s"] > 0
    assert cuda.is_empty
    # A small device lends an eighth of what it has, in whole units.
    assert check_device(HostCuda(Record(), memory=10_000), largest=1 << 16)["buffer_bytes"] == 1024


class LosesLastByte(HostCuda):
    """Copies one byte too few."""

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        super().copy(target, source, size - 1, stream)


class ClearsNothing(HostCuda):
    """Takes the call and does nothing."""

    def clear(self, address: int, size: int, stream: int) -> None:
        """Do nothing."""


class ClearsAtOnce(HostCuda):
    """Does not keep the order of a stream: clears before what was enqueued earlier."""

    def clear(self, address: int, size: int, stream: int) -> None:
        pending = self.streams[stream][:]
        self.streams[stream].clear()
        super().clear(address, size, stream)
        self.streams[stream].extend(pending)


class RunsWhileCapturing(HostCuda):
    """Does at once what is only to be captured."""

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        enqueue()
        return super().capture(stream, enqueue)


class LaunchesOnce(HostCuda):
    """Forgets a graph after its first launch."""

    def launch(self, graph: int, stream: int) -> None:
        super().launch(graph, stream)
        self.graphs[graph] = []


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (LosesLastByte, "host to GPU to GPU to host: 1 of 4096 bytes are wrong"),
        (ClearsNothing, "cleared memory: "),
        (ClearsAtOnce, "a clearing behind a copy: "),
        (RunsWhileCapturing, "a copy that was only captured: "),
        (LaunchesOnce, "a copy that was launched again: "),
    ],
)
def test_a_device_that_breaks_a_rule_is_found(kind: type[HostCuda], message: str) -> None:
    cuda = kind(Record())
    with pytest.raises(CheckFailed, match=message):
        check_device(cuda, largest=4096)
    assert cuda.is_empty


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine directory of the small model; TensorRT and the GPU are doubles."""
    pytest.importorskip("onnx")
    from letter_codec import write_letter_files
    from tensorrt_graph import make_graph
    from trt_machine import KV, Machine, make_manifest

    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    folder = tmp_path / "engine"
    folder.mkdir()
    make_graph(folder / "model.plan", KV)
    write_letter_files(folder)
    machine = Machine(folder)
    monkeypatch.setattr("edgellama.runtime.trt._first_gpu", lambda: machine.cuda)
    manifest = make_manifest()
    write_manifest(folder, replace(manifest, files=record_files(folder)))
    return folder


TEXTS = tuple(tuple(tokens(count, count)) for count in (20, 11, 16))


def expectation() -> Expectation:
    logits = tuple(expected_logits(list(ids)) for ids in TEXTS)
    return Expectation(TEXTS, logits, logits)


def reference(sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
    return [expected_logits(list(ids)) for ids in sequences]


def test_numerics_hold_on_the_doubles(engine: Path) -> None:
    found = gpu_numerics.check_engine(engine, expectation(), reference)
    assert found["expectation"]["greedy_agreement"] == 1.0
    assert found["slot_reuse"] == {"exact": True}
    assert found["cuda_graphs"] == {"exact": True, "largest_difference": 0.0}
    assert found["ragged"]["largest_difference"] < 1e-5
    answers = found["greedy"]
    assert answers["same"] == answers["tokens"] == 3 * 12  # 12 of a prompt in slots of 24
    without = gpu_numerics.check_engine(engine, expectation(), None)
    assert without["greedy"].startswith("held to the bundle's expectation")


def test_an_expectation_that_is_not_met_fails(engine: Path) -> None:
    logits = tuple(expected_logits(list(ids)) + np.float32(1) for ids in TEXTS)
    with pytest.raises(CheckFailed, match="largest logit error is"):
        gpu_numerics.check_engine(engine, Expectation(TEXTS, logits, logits), reference)


def test_a_greedy_token_that_is_not_the_models_fails(engine: Path) -> None:
    def other(sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        return [-logits for logits in reference(sequences)]

    with pytest.raises(CheckFailed, match="greedy tokens are not the model's") as failure:
        gpu_numerics.check_engine(engine, expectation(), other)
    assert failure.value.figures["greedy"]["same"] == 0


class Tampered:
    """A backend whose logits are changed by a function of (calls so far, logits)."""

    def __init__(self, backend: Any, change: Callable[[int, np.ndarray], np.ndarray]) -> None:
        self._backend, self._change, self._calls = backend, change, 0
        self.slots, self.capacity = backend.slots, backend.capacity
        self.vocab_size = backend.vocab_size

    def run(self, step: Any) -> np.ndarray:
        self._calls += 1
        return self._change(self._calls, np.array(self._backend.run(step)))

    def run_tokens(self, slot: int, ids: Sequence[int], start: int) -> np.ndarray:
        self._calls += 1
        return self._change(self._calls, self._backend.run_tokens(slot, ids, start))

    def close(self) -> None:
        self._backend.close()


def test_graphs_that_change_a_bit_fail(engine: Path) -> None:
    from edgellama.runtime.load import load_backend

    def load(folder: Path, manifest: Manifest) -> Any:
        backend = load_backend(folder, manifest)
        knobs = manifest.profile.tensorrt
        assert knobs is not None
        if knobs.cuda_graphs:
            return backend
        return Tampered(backend, lambda _calls, logits: np.nextafter(logits, np.float32(1e9)))

    with pytest.raises(CheckFailed, match="CUDA graphs change prefill, decode, reuse, fresh, aft"):
        gpu_numerics.check_engine(engine, expectation(), reference, load)


def test_a_reused_slot_that_remembers_fails(engine: Path) -> None:
    from edgellama.runtime.load import load_backend

    def load(folder: Path, manifest: Manifest) -> Any:
        return Tampered(
            load_backend(folder, manifest), lambda calls, logits: logits + np.float32(calls * 1e-6)
        )

    with pytest.raises(CheckFailed, match="a reused slot changes the logits of its text by"):
        gpu_numerics.check_engine(engine, expectation(), reference, load)


def test_two_engines_that_say_the_same_agree_and_others_do_not(engine: Path) -> None:
    from edgellama.runtime.load import load_backend

    found = compare_engines(engine, engine, expectation())
    assert found["largest_difference"] == 0.0

    loaded: list[Any] = []

    def load(folder: Path, manifest: Manifest) -> Any:
        backend = load_backend(folder, manifest)
        loaded.append(backend)
        if len(loaded) == 1:
            return backend
        # As if an old cache were read: only what comes behind another chunk is wrong.
        return Tampered(backend, lambda calls, logits: logits * 1.01 if calls > 1 else logits)

    with pytest.raises(CheckFailed, match="targets trt-native and trt-native differ by"):
        compare_engines(engine, engine, expectation(), load)


def test_requests_in_company_get_their_own_answers(engine: Path) -> None:
    with Engine.load(engine) as loaded:
        found = serve_together(loaded)
    assert found["requests"] == found["same"] == SLOTS
    assert found["ties"] == [] and found["steps"] < found["tokens"]


def test_one_slot_has_no_company(engine: Path) -> None:
    from edgellama.runtime.load import load_backend
    from edgellama.runtime.manifest import read_manifest

    manifest = read_manifest(engine)
    limits = replace(manifest.profile.limits, max_queue=1)
    manifest = replace(manifest, profile=replace(manifest.profile, limits=limits))
    with Engine.load(engine) as first:
        codec = first.codec
    loaded = Engine(load_backend(engine, manifest), codec, limits, manifest)
    with loaded, pytest.raises(CheckSkipped, match="no two requests share a step"):
        serve_together(loaded)


def test_latency_is_measured_beside_the_ceiling(engine: Path) -> None:
    found = gpu_latency.measure(engine, copy_gb_s=10.0)
    assert [row["rows"] for row in found["requests"]] == [1, SLOTS]
    for row in found["requests"]:
        assert row["ceiling"]["step_ms"] == row["tpot_ms"]["p50"]
        assert 0 < row["ceiling"]["share"] < 1
        assert (row["prompt_tokens"], row["output_tokens"]) == (12, 12)
    assert CHUNK < 12 < VOCAB  # a prompt of more than one chunk
