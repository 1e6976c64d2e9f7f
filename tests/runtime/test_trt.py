"""The TensorRT backend end to end, on a double of TensorRT and with the host's memory as a GPU's.

`recorded_tensorrt` says what the double is and what it does not prove.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from slot_driver import SlotDriver
from small_llama import CAPACITY, CHUNK, SLOTS, VOCAB, expected_logits, greedy, tokens

from edgellama.runtime.completion import Collector
from edgellama.runtime.contract import graph_inputs, graph_outputs
from edgellama.runtime.engine import Engine
from edgellama.runtime.load import load_backend
from edgellama.runtime.manifest import EngineError, Manifest, record_files, write_manifest
from edgellama.runtime.request import Request
from edgellama.runtime.step import (
    DecodeRow,
    PrefillChunk,
    PrefixRestore,
    PrefixSave,
    SlotCopy,
    Step,
)

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from letter_codec import write_letter_files
from tensorrt_graph import make_graph
from trt_machine import KV, LIMITS, TENSORRT_10_3, Machine, make_manifest, with_kv

from edgellama.runtime.tensorrt_engine import TensorRtEngine
from edgellama.runtime.text import TextCodec
from edgellama.runtime.trt import TrtBackend

EXECUTE = "IExecutionContext.execute_async_v3"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("plan")
    make_graph(made / "model.plan", KV)
    return made


@pytest.fixture(autouse=True)
def _libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the doubles after each test."""
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)


# Every kind of library that the backend must work with.
KINDS: dict[str, dict[str, Any]] = {
    "11.4": {},
    "10.3": {"without": TENSORRT_10_3},
    "RTX 1.7": {"backend": "tensorrt-rtx"},
}


@pytest.fixture(params=[(kind, graphs) for kind in KINDS for graphs in (True, False)], ids=str)
def machine(request: pytest.FixtureRequest, folder: Path) -> Machine:
    kind, _ = request.param
    return Machine(folder, **KINDS[kind])


@pytest.fixture
def backend(request: pytest.FixtureRequest, machine: Machine) -> Iterator[TrtBackend]:
    _, graphs = request.node.callspec.params["machine"]
    loaded = machine.load(cuda_graphs=graphs)
    yield loaded
    loaded.close()
    assert machine.cuda.is_empty


def test_describes_itself(backend: TrtBackend) -> None:
    assert (backend.slots, backend.capacity, backend.vocab_size) == (SLOTS, CAPACITY, VOCAB)


def test_chunks_equal_the_whole_prompt(backend: TrtBackend) -> None:
    driver, prompt = SlotDriver(backend), tokens(19, 0)
    assert driver.run(chunk=(1, prompt[:8]), is_last=False).shape == (0, VOCAB)
    assert driver.run(chunk=(1, prompt[8:16]), is_last=False).shape == (0, VOCAB)
    driver.check(driver.run(chunk=(1, prompt[16:])), [1])


def test_ragged_rows_and_a_chunk_in_one_step(backend: TrtBackend) -> None:
    driver = SlotDriver(backend)
    for slot, count in ((0, 3), (1, 8), (3, 6)):
        driver.check(driver.run(chunk=(slot, tokens(count, slot))), [slot])
    driver.check(driver.run({0: 5, 1: 6, 3: 7}, (2, tokens(8, 9))), [0, 1, 3, 2])
    # The order of the rows is the step's, not that of the slots.
    driver.check(driver.run({3: 1, 0: 2, 2: 3, 1: 4}), [3, 0, 2, 1])


@pytest.mark.parametrize("idle", range(SLOTS))
def test_a_slot_in_mid_prefill_survives_its_neighbours(backend: TrtBackend, idle: int) -> None:
    driver, prompt = SlotDriver(backend), tokens(14, 5)
    others = [slot for slot in range(SLOTS) if slot != idle]
    for slot in others:
        driver.run(chunk=(slot, tokens(2 + slot, slot)))
    driver.run(chunk=(idle, prompt[:8]), is_last=False)
    for _ in range(3):  # a step between two chunks, more often than the scheduler would
        driver.check(driver.run(dict.fromkeys(others, 4)), others)
    driver.run(dict.fromkeys(others, 3), (idle, prompt[8:12]), is_last=False)
    driver.check(driver.run(dict.fromkeys(others, 2), (idle, prompt[12:])), [*others, idle])


def test_the_bucket_grows_and_shrinks(backend: TrtBackend) -> None:
    driver = SlotDriver(backend)
    for slot in range(SLOTS):
        driver.run(chunk=(slot, tokens(3 + slot, slot)))
    # A row that was wanted of a larger bucket would not exist in a smaller one.
    for slots in ([0], [0, 1], [1], [3], [0], [3, 2, 1, 0], [1], [2, 0], [0, 1, 2, 3], [1, 0]):
        driver.check(driver.run({slot: 7 + slot for slot in slots}), slots)


def test_a_reused_slot_needs_no_cleaning(backend: TrtBackend) -> None:
    driver = SlotDriver(backend)
    for part in (tokens(8, 1), tokens(8, 2), tokens(4, 3)):
        driver.run(chunk=(0, part))
    driver.held[0] = []
    driver.check(driver.run(chunk=(0, tokens(5, 2))), [0])
    driver.check(driver.run({0: 9}), [0])


def test_a_beginning_is_copied_between_slots(backend: TrtBackend) -> None:
    SlotDriver(backend).check_copies()


def test_prefixes_are_saved_and_restored(backend: TrtBackend) -> None:
    SlotDriver(backend).check_saved()


def test_a_prompt_is_scored_beside_rows(backend: TrtBackend) -> None:
    SlotDriver(backend).check_scored()


def test_a_slot_fills_to_its_last_position(backend: TrtBackend) -> None:
    driver = SlotDriver(backend)
    driver.run(chunk=(0, tokens(4, 1)))
    for part in (tokens(8, 2), tokens(8, 3), tokens(7, 4)):
        driver.run(chunk=(2, part))
    driver.check(driver.run({0: 1, 2: 1}), [0, 2])
    assert len(driver.held[2]) == CAPACITY
    with pytest.raises(ValueError, match="slot 2 has no position left: it holds 24 of 24"):
        driver.run({2: 1})


def test_every_position_of_a_chunk(backend: TrtBackend) -> None:
    """More positions than the plan gives rows a run."""
    text = tokens(15, 3)
    logits = [backend.run_tokens(2, text[:CHUNK], 0), backend.run_tokens(2, text[CHUNK:], CHUNK)]
    np.testing.assert_allclose(np.concatenate(logits), expected_logits(text), atol=2e-5)
    driver = SlotDriver(backend)
    driver.held[2] = text
    driver.check(driver.run({2: 11}), [2])


def serve(backend: TrtBackend, folder: Path, prompts: list[list[int]]) -> list[list[int]]:
    """Serve prompts through the engine, as many at once as fit."""
    write_letter_files(folder)
    codec = TextCodec.load(folder)
    with Engine(backend, codec, replace(LIMITS, max_queue=len(prompts))) as engine:
        collectors = [Collector() for _ in prompts]
        for prompt, collector in zip(prompts, collectors, strict=True):
            engine.submit(Request(tuple(prompt), codec.generation.default_sampling), collector)
        answers = [list(collector.result().token_ids) for collector in collectors]
        # Half as many steps as tokens at most: the requests did share them.
        assert len(prompts) == 1 or engine.stats().steps < sum(map(len, answers)) / 2
    return answers


@pytest.mark.parametrize("machine", [("11.4", True), ("11.4", False)], indirect=True, ids=str)
def test_many_requests_at_once_equal_each_alone(
    machine: Machine, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    _, graphs = request.node.callspec.params["machine"]
    prompts = [tokens(1 + 3 * i % 17, i) for i in range(12)]
    together = serve(machine.load(cuda_graphs=graphs), tmp_path, prompts)
    assert machine.cuda.is_empty
    assert together == [greedy(prompt, CAPACITY - len(prompt)) for prompt in prompts]
    for prompt, answer in zip(prompts[:3], together, strict=False):
        assert serve(machine.load(cuda_graphs=graphs), tmp_path, [prompt]) == [answer]


def test_half_the_bytes_a_cache(tmp_path: Path) -> None:
    """A pool of float16, as on a GPU; the sums around it are float32 here."""
    manifest = with_kv(make_manifest(), dtype="float16")
    manifest = replace(
        manifest,
        inputs=graph_inputs("trt-native", manifest.kv),
        outputs=graph_outputs(manifest.kv, VOCAB),
    )
    make_graph(tmp_path / "model.plan", manifest.kv)
    machine = Machine(tmp_path)
    driver, prompt = SlotDriver(machine.load(manifest)), tokens(12, 0)
    pool = max(call.arguments[0] for call in machine.record if call.name == "cuda.clear")
    assert pool == SLOTS * CAPACITY * KV.bytes_per_token // 2
    driver.run(chunk=(2, prompt[:8]), is_last=False)
    driver.run(chunk=(2, prompt[8:]))
    driver.run(chunk=(0, prompt[:3]))
    rows = driver.run({2: 5, 0: 6})
    for row, slot in zip(rows, (2, 0), strict=True):
        exact = expected_logits(driver.held[slot])[-1]
        assert 0 < np.abs(row - exact).max() < 0.01
    # The host keeps the halves as they are.
    driver.held[2], driver.held[0] = prompt, prompt[:3]
    driver.run(chunk=(1, [1]), copies=(PrefixSave(2, 1, 12),))
    driver.held[2] = []
    driver.run(chunk=(2, tokens(8, 5)))
    again = driver.run({2: 5, 0: 6}, copies=(PrefixRestore(1, 2, 12),))
    np.testing.assert_array_equal(again, rows)


# What one step asks of the library and of the GPU.


@pytest.fixture
def plain(folder: Path) -> Machine:
    return Machine(folder)


def calls_of(machine: Machine, step: Callable[[], object]) -> list[str]:
    start = len(machine.record)
    step()
    return machine.record.names(start)


def test_a_decode_step_is_one_launch_and_one_wait(plain: Machine) -> None:
    driver = SlotDriver(plain.load())
    driver.run(chunk=(1, tokens(3, 0)))
    assert calls_of(plain, lambda: driver.run({1: 4})) == [
        "cuda.copy_to_device",
        "cuda.launch",
        "cuda.copy_to_host",
        "cuda.synchronize",
    ]


def test_a_decode_step_without_graphs(plain: Machine) -> None:
    driver = SlotDriver(plain.load(cuda_graphs=False))
    driver.run(chunk=(1, tokens(3, 0)))
    driver.run({1: 4})
    assert calls_of(plain, lambda: driver.run({1: 4})) == [
        "cuda.copy_to_device",
        EXECUTE,
        "cuda.copy_to_host",
        "cuda.synchronize",
    ]


def test_a_step_of_both_kinds_waits_once(plain: Machine) -> None:
    driver = SlotDriver(plain.load())
    driver.run(chunk=(1, tokens(3, 0)))
    names = calls_of(plain, lambda: driver.run({1: 4}, (1 + 1, tokens(5, 1))))
    assert names.count("cuda.synchronize") == 1
    assert [n for n in names if n.startswith("cuda.") or n == EXECUTE] == [
        "cuda.copy_to_device",
        "cuda.launch",
        "cuda.copy_to_host",
        "cuda.copy_to_device",
        EXECUTE,
        "cuda.copy_to_host",
        "cuda.synchronize",
    ]


def test_idle_rows_feed_a_token_behind_what_they_hold(plain: Machine) -> None:
    backend = plain.load()
    driver = SlotDriver(backend)
    for slot in range(SLOTS):
        driver.run(chunk=(slot, tokens(3 + slot, slot)))
    driver.run({0: 9, 1: 8, 2: 7})
    driver.run({3: 5, 1: 6})
    fed = {name: array.tolist() for name, array in backend._decode._inputs.arrays.items()}
    assert fed == {
        "input_ids": [0, 6, 0, 5],
        "position_ids": [4, 5, 6, 6],
        "write_indices": [4, 5, 6, 6],
        "logits_indices": [3, 1, 0, 0],
    }


def test_only_wanted_rows_come_back(plain: Machine) -> None:
    driver = SlotDriver(plain.load())
    driver.run(chunk=(0, tokens(3, 0)))
    driver.run(chunk=(3, tokens(3, 0)))
    start = len(plain.record)
    driver.run({3: 1, 0: 2}, (1, tokens(4, 1)), is_last=False)
    sizes = [call.arguments for call in plain.record[start:] if call.name == "cuda.copy_to_host"]
    assert sizes == [(2 * VOCAB * 4,)]  # of a bucket of 4; none for a chunk that is not the last


def test_chunks_of_one_slot_bind_it_once(plain: Machine) -> None:
    driver = SlotDriver(plain.load())
    bind = "IExecutionContext.set_tensor_address"
    first = calls_of(plain, lambda: driver.run(chunk=(2, tokens(4, 0))))
    assert first.count(bind) == 2 * 2 * KV.layers  # key and value, past and present
    assert bind not in calls_of(plain, lambda: driver.run(chunk=(2, tokens(3, 1))))


def test_each_bucket_has_a_context_and_a_graph(plain: Machine) -> None:
    backend = plain.load()
    names = plain.record.names()
    assert names.count("cuda.capture") == len(plain.cuda.graphs) == 3  # 1, 2 and 4
    assert names.count("ICudaEngine.create_execution_context") == 1 + 3
    # One allocation each: pool, logits of both kinds, inputs of both kinds, activations.
    assert names.count("cuda.allocate") == 6
    arenas = [c.arguments for c in plain.record if c.name == "IExecutionContext.set_device_memory"]
    assert len(arenas) == 4 and len(set(arenas)) == 1
    backend.close()


def test_rtx_captures_by_itself(folder: Path) -> None:
    """A context a bucket keeps its own graph; nothing is captured from outside, nor for chunks."""
    machine = Machine(folder, backend="tensorrt-rtx")
    machine.load()
    names = machine.record.names()
    assert "cuda.capture" not in names
    assert names.count("IRuntimeConfig.cuda_graph_strategy=") == 3
    assert names.count("ICudaEngine.create_execution_context") == 1 + 3
    other = Machine(folder, backend="tensorrt-rtx")
    other.load(cuda_graphs=False)
    assert "ICudaEngine.create_runtime_config" not in other.record.names()


# Bounds: refused before anything is enqueued.


def step(
    decode: tuple[tuple[int, int, int], ...] = (),
    chunk: tuple[int, int, int] | None = None,
    lengths: tuple[int, ...] = (3, 3, 3, 3),
    token: int = 1,
) -> Step:
    """Return a step; rows are (slot, token, position), a chunk (slot, count, start)."""
    prefill = None
    if chunk is not None:
        slot, count, start = chunk
        prefill = PrefillChunk(slot, (token,) * count, start, True)
    return Step(tuple(DecodeRow(*row) for row in decode), prefill, lengths)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (step(((4, 1, 3),)), r"slot is 4; it must be in \[0, 4\)"),
        (step(((-1, 1, 3),)), r"slot is -1"),
        (step(((0, VOCAB, 3),)), r"token id is 40; the vocabulary is \[0, 40\)"),
        (step(((0, -1, 3),)), "token id is -1"),
        (step(((0, 1, 2),)), "slot 0 decodes at position 2, but holds 3 tokens"),
        (step(((0, 1, 3),), lengths=(3, 24, 3, 3)), "slot 1 has no position left: it holds 24"),
        (step(((0, 1, 3),), lengths=(3, 3)), "the step has 2 lengths for 4 slots"),
        (step(((0, 1, 3),) * 5), "the step decodes 5 rows; the engine takes 1 to 4"),
        (step(chunk=(4, 2, 0)), "slot is 4"),
        (step(chunk=(0, CHUNK + 1, 0)), "a chunk has 9 tokens; the engine takes 1 to 8 at once"),
        (step(chunk=(0, 0, 0)), "a chunk has 0 tokens"),
        (step(chunk=(0, 4, 21)), "4 tokens at position 21 do not fit a slot of 24"),
        (step(chunk=(0, 4, -1)), "4 tokens at position -1"),
        (step(chunk=(0, 4, 0), token=VOCAB), "token id is 40"),
        (Step((), None, (3,) * 4, (PrefixSave(4, 1, 3),)), "slot is 4"),
        (Step((), None, (3,) * 4, (PrefixRestore(1, -1, 3),)), "slot is -1"),
        (Step((), None, (3,) * 4, (PrefixRestore(1, 0, 24),)), "24 positions of a slot are copied"),
        (Step((), None, (3,) * 4, (SlotCopy(1, 1, 3),)), "slot 1 is copied to itself"),
        # The decode would be fine: nothing of it is enqueued either.
        (step(((0, 1, 3),), chunk=(1, 4, 21)), "4 tokens at position 21"),
    ],
)
def test_out_of_bounds_enqueues_nothing(plain: Machine, bad: Step, message: str) -> None:
    backend = plain.load()
    start = len(plain.record)
    with pytest.raises(ValueError, match=message):
        backend.run(bad)
    assert plain.record.names(start) == []


def test_out_of_bounds_tokens_enqueue_nothing(plain: Machine) -> None:
    backend = plain.load()
    start = len(plain.record)
    for slot, text, at in ((9, [1], 0), (0, [VOCAB], 0), (0, [1] * 9, 0), (0, [1], CAPACITY)):
        with pytest.raises(ValueError):
            backend.run_tokens(slot, text, at)
    assert plain.record.names(start) == []


# What a load finds and refuses.


def test_tensors_have_numpys_types(tmp_path: Path) -> None:
    import onnx

    kinds = ("FLOAT", "FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "INT8", "INT32", "INT64", "UINT8")
    types = {kind: getattr(onnx.TensorProto, kind) for kind in kinds}
    nodes = [onnx.helper.make_node("Identity", [kind], [f"same {kind}"]) for kind in kinds]

    def declare(prefix: str) -> list[onnx.ValueInfoProto]:
        return [
            onnx.helper.make_tensor_value_info(prefix + kind, type_, ("batch", 3))
            for kind, type_ in types.items()
        ]

    graph = onnx.helper.make_graph(nodes, "types", declare(""), declare("same "))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    model.ir_version = 10
    onnx.save(model, tmp_path / "model.plan")
    Machine(tmp_path)
    engine = TensorRtEngine(
        tmp_path / "model.plan", "tensorrt", host_code=False, streaming_budget=None
    )
    inputs, outputs = engine.tensors()
    expected = ["float32", "float16", "bfloat16", "float8_e4m3fn", "int8", "int32", "int64"]
    # The last is refused.
    assert [tensor.dtype for tensor in inputs] == [*expected, "UINT8"]
    assert {tensor.name for tensor in outputs} == {f"same {kind}" for kind in kinds}
    assert {tensor.shape for tensor in (*inputs, *outputs)} == {("?", 3)}


def refused(
    machine: Machine, message: str, manifest: Manifest | None = None, **settings: Any
) -> None:
    # The error's traceback keeps every frame: what is free by now was freed on purpose.
    with pytest.raises(EngineError, match=message) as failure:
        machine.load(manifest, **settings)
    assert machine.cuda.is_empty
    names = machine.record.names()
    loaded = names.count("Runtime.deserialize_cuda_engine") if machine.answers.loads else 0
    assert names.count("ICudaEngine.__del__") == loaded
    contexts = names.count("IExecutionContext.set_optimization_profile_async")
    assert names.count("IExecutionContext.__del__") == contexts
    if contexts:
        last = len(names) - names[::-1].index("IExecutionContext.__del__")
        assert "cuda.free" not in names[:last]
    del failure


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_a_missing_library(folder: Path, backend: str) -> None:
    machine = Machine(folder, backend=backend)
    machine.install(None)
    refused(machine, f"needs {backend}, and .* install 'edgellama.{backend}.'")


@pytest.mark.parametrize(
    ("installed", "settings", "message"),
    [
        (
            "11.4.1",
            {},
            "was built with tensorrt 11.4.0.106; 11.4.1 is installed; install 11.4.0.106",
        ),
        ("10.16.0", {}, "10.16.0 is installed"),
        ("11.4.1", {"version_compatible": True}, None),
        ("10.16.0", {"version_compatible": True}, "10.16.0 is installed, which is older"),
        (
            "11.4.1",
            {"version_compatible": True, "exclude_lean_runtime": True},
            "the plan has no lean runtime",
        ),
        ("11.4.0.106", {"version_compatible": True, "exclude_lean_runtime": True}, None),
    ],
)
def test_another_version(
    folder: Path, installed: str, settings: dict[str, bool], message: str | None
) -> None:
    machine = Machine(folder, version=installed)
    if message is not None:
        refused(machine, message, **settings)
        return
    machine.load(**settings)
    assert "Runtime.engine_host_code_allowed=" in machine.record.names()


def test_code_of_the_plan_runs_only_when_it_must(plain: Machine) -> None:
    plain.load()
    assert "Runtime.engine_host_code_allowed=" not in plain.record.names()


def test_a_manifest_without_the_version(plain: Machine) -> None:
    refused(plain, "versions.tensorrt is missing", replace(make_manifest(), versions={}))


@pytest.mark.parametrize(
    ("here", "compatibility", "fits"),
    [
        ("8.6", "none", False),
        ("8.6", "same_compute_capability", False),
        ("8.6", "ampere_plus", True),
        ("12.0", "ampere_plus", True),
        ("7.5", "ampere_plus", False),
    ],
)
def test_another_gpu(folder: Path, here: str, compatibility: str, fits: bool) -> None:
    machine = Machine(folder, compute_capability=here)
    if fits:
        machine.load(hardware_compatibility=compatibility)
    else:
        message = f"compute capability 8.9 .NVIDIA L4.; this GPU is .* with {here}; build"
        refused(machine, message, hardware_compatibility=compatibility)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: with_kv(m, layers=3), "past_key_values.2.key is absent"),
        (lambda m: with_kv(m, capacity=32), r"the runtime needs .* 32, 16\]"),
        (
            lambda m: with_kv(m, dtype="float16"),
            "past_key_values.0.key is float32 .* needs float16",
        ),
        (
            lambda m: with_kv(m, dtype="int8"),
            "kv.dtype is 'int8'; target trt-native updates caches of",
        ),
        (
            lambda m: with_kv(m, capacity=25, head_dim=4),
            "makes a slot 800 bytes .* limits.capacity that is a multiple of 8$",
        ),
        (lambda m: with_kv(m, slots=3), "kv.slots is 3, limits.slots 4"),
        (lambda m: replace(m, inputs=m.inputs[1:]), "input_ids is .*; engine.json says absent"),
        (lambda m: replace(m, model=replace(m.model, vocab_size=41)), r"logits is .*\[\?, 41\]"),
        (lambda m: replace(m, graph="other.plan"), "other.plan is missing"),
        (
            lambda m: replace(
                m, profile=replace(m.profile, limits=replace(LIMITS, prefill_chunk=9))
            ),
            r"prefill takes input_ids from \[1, 1\] to \[1, 8\]; .* needs \[1, 1\] to \[1, 9\]",
        ),
    ],
)
def test_another_plan(plain: Machine, change: Callable[[Manifest], Manifest], message: str) -> None:
    refused(plain, message, change(make_manifest()))


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (
            {"aliases": {"present.1.key": "past_key_values.0.key"}},
            "shares .* of past_key_values.0.key",
        ),
        ({"aliases": {"present.1.value": ""}}, "present.1.value shares the memory of no input"),
        ({"host_tensors": ("write_indices",)}, "wants write_indices in the memory of the host"),
        ({"num_profiles": 1}, "has 1 optimisation profiles; the runtime needs 2"),
        (
            {"smallest": {"position_ids": (1, 2)}},
            r"profile prefill takes position_ids from \[1, 2\] to \[1, 8\]; .* needs \[1, 1\]",
        ),
        ({"loads": False}, "tensorrt 11.4.0.106 cannot load it: deserialize: magic tag$"),
    ],
)
def test_a_planted_fault(plain: Machine, plant: dict[str, Any], message: str) -> None:
    for name, value in plant.items():
        setattr(plain.answers, name, value)
    refused(plain, message)


def test_a_plain_plan_aliases_nothing(plain: Machine) -> None:
    """Its cache is in place by address alone, so the question is not asked."""
    plain.answers.aliases = {"present.0.key": ""}
    plain.load(make_manifest(target="trt-plain"))
    assert "ICudaEngine.get_aliased_input_tensor" not in plain.record.names()


def test_memory_is_asked_for_before_it_is_taken(folder: Path) -> None:
    machine = Machine(folder, memory=20_000)
    refused(machine, r"needs .* GiB of .* \(weights .*, KV pool .*\), but .* free; free memory, or")
    assert "cuda.allocate" not in machine.record.names()
    assert "Runtime.__init__" not in machine.record.names()


def test_an_error_about_memory_says_what_would_fit(folder: Path) -> None:
    plan = (folder / "model.plan").stat().st_size
    logits = 2 * 768  # two times 4 rows of 40 floats, aligned
    half = KV.slots * KV.bytes_per_token * CAPACITY // 2
    refused(Machine(folder, memory=plan + logits + half), "with limits.capacity 12 or fewer slots")


def test_streamed_weights(folder: Path) -> None:
    """0 is the library's own choice; a budget beyond the weights is all of them."""
    for budget, streamable, expected in ((0.0, 100, 7), (1.0, 100, 100), (1.0, 1 << 31, 1 << 30)):
        machine = Machine(folder)
        machine.answers.streamable = streamable
        machine.load(weight_streaming=True, weight_streaming_budget_gib=budget)
        assert machine.answers.budget == expected
        names = machine.record.names()
        # The memory that a context needs depends on it.
        assert names.index("ICudaEngine.weight_streaming_budget_v2=") < names.index(
            "ICudaEngine.device_memory_size_v2"
        )


def test_weights_that_do_not_stream(folder: Path) -> None:
    refused(Machine(folder), "no weights to stream", weight_streaming=True)
    machine = Machine(folder)
    machine.answers.streamable = 100
    machine.answers.refuses = lambda name: name == "weight_streaming_budget_v2"
    refused(machine, "refused a weight streaming budget of 7 bytes", weight_streaming=True)


STRIPPED = {"strip_plan": True, "refit": "refit_identical"}


@pytest.fixture
def stripped(folder: Path, tmp_path: Path) -> Path:
    """An engine whose weights lie beside the plan."""
    (tmp_path / "model.plan").write_bytes((folder / "model.plan").read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"graph" * 100)
    (tmp_path / "model.onnx.data").write_bytes(b"weights" * 100)
    return tmp_path


@pytest.mark.parametrize("kind", ["11.4", "10.3"])
def test_a_stripped_plan_gets_its_weights_before_all_else(stripped: Path, kind: str) -> None:
    machine = Machine(stripped, **KINDS[kind])
    backend = machine.load(**STRIPPED)
    given = [call for call in machine.record if call.name.endswith("refit_from_file")]
    assert [call.arguments for call in given] == [(str(stripped / "model.onnx"),)]
    order = [
        "Runtime.deserialize_cuda_engine",
        "OnnxParserRefitter.refit_from_file",
        "Refitter.refit_cuda_engine",
        "ICudaEngine.device_memory_size_v2",
    ]
    names = machine.record.names()
    assert sorted(order, key=names.index) == order
    backend.close()
    assert machine.cuda.is_empty
    plain = Machine(stripped, **KINDS[kind])
    plain.load().close()
    assert not [name for name in plain.record.names() if "efit" in name]


@pytest.mark.parametrize("call", ["refit_from_file", "refit_cuda_engine"])
def test_a_stripped_plan_without_its_weights_is_refused(stripped: Path, call: str) -> None:
    machine = Machine(stripped)
    machine.answers.refuses = lambda name: name == call
    refused(machine, rf"cannot take its weights from .*model\.onnx: {call}: planted", **STRIPPED)
    (stripped / "model.onnx.data").unlink()
    refused(Machine(stripped), r"model\.onnx\.data is missing; rebuild", **STRIPPED)


def test_the_weights_of_a_stripped_plan_count(stripped: Path) -> None:
    sizes = sum(path.stat().st_size for path in stripped.iterdir())
    pool = KV.slots * KV.bytes_per_token * CAPACITY
    for memory, message in ((sizes + pool, "needs"), (1 << 20, None)):
        machine = Machine(stripped, memory=memory)
        if message is None:
            machine.load(**STRIPPED).close()
        else:
            refused(machine, message, **STRIPPED)


def test_a_capture_that_fails_says_what_to_set(folder: Path) -> None:
    machine = Machine(folder, fails=lambda name: name == "capture")
    refused(machine, "batch size 1 cannot be captured .* tensorrt.cuda_graphs = false")
    fine = Machine(folder, fails=lambda name: name == "capture")
    SlotDriver(fine.load(cuda_graphs=False)).run(chunk=(0, [1]))


# Nothing leaks.


def test_close_frees_in_turn(plain: Machine) -> None:
    backend = plain.load()
    start = len(plain.record)
    backend.close()
    backend.close()
    assert plain.cuda.is_empty
    names = plain.record.names(start)
    order = ["cuda.destroy_graph", "IExecutionContext.__del__", "cuda.free", "cuda.destroy_stream"]
    order += ["ICudaEngine.__del__", "Runtime.__del__"]
    assert sorted(set(names)) == sorted({*order, "cuda.free_pinned"})
    last_context = len(names) - names[::-1].index("IExecutionContext.__del__")
    assert names.index("cuda.free") >= last_context
    assert names[-3:] == order[-3:]


class FailAt:
    """Says yes at the n-th question of the chosen names."""

    def __init__(self, n: int) -> None:
        self.left = n
        self.asked: list[str] = []

    def __call__(self, name: str) -> bool:
        self.asked.append(name)
        self.left -= 1
        return self.left == -1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("whose", ["cuda", "library"])
def test_a_load_that_fails_half_way_leaks_nothing(
    folder: Path, kind: str, graphs: bool, whose: str
) -> None:
    """Fail each call in turn: every one ends in our error, and gives everything back."""

    def machine_that(fails: FailAt) -> Machine:
        machine = Machine(folder, **KINDS[kind], **({"fails": fails} if whose == "cuda" else {}))
        if whose == "library":
            machine.answers.refuses = fails
        return machine

    counted = FailAt(-1)
    machine_that(counted).load(cuda_graphs=graphs).close()
    assert len(counted.asked) > 10
    for n in range(len(counted.asked)):
        refused(machine_that(FailAt(n)), "planted", cuda_graphs=graphs)


def test_a_step_that_fails_is_an_engine_error(plain: Machine) -> None:
    backend = plain.load()
    plain.answers.refuses = lambda name: name == "execute_async_v3"
    with pytest.raises(EngineError, match=r"tensorrt 11\.4\.0\.106 failed to run: execute_"):
        SlotDriver(backend).run(chunk=(0, [1, 2]))
    backend.close()
    assert plain.cuda.is_empty


# The doubles themselves can fail.


def test_the_double_refuses_what_the_stub_does_not_have(plain: Machine) -> None:
    plain.load()
    double = plain.answers.double
    assert double is not None
    engine = double.make("ICudaEngine", nodes={}, inputs=[])
    for call in (
        lambda: engine.get_tensor_name("first"),  # a name for an index
        lambda: engine.get_tensor_name(),
        lambda: engine.get_tensor_name(0, 1),
        lambda: engine.create_execution_context(1),
        lambda: double.module.ICudaEngine(),
    ):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(AttributeError):
        _ = engine.device_memory_size  # gone since 11.0
    with pytest.raises(AttributeError):
        engine.num_layers = 3
    with pytest.raises(LookupError, match=r"no answer for ICudaEngine\.num_layers"):
        _ = engine.num_layers


def test_a_planted_wrong_call_is_caught(plain: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that used an older spelling would not get past the double."""
    from edgellama.runtime import tensorrt_engine

    def misspelt(context: Any, stream: int) -> None:
        context._open.execute_async_v2([], stream)

    def too_many(context: Any, name: str, address: int) -> None:
        context._open.set_tensor_address(name, address, 0)

    context = tensorrt_engine.EngineContext
    for method, planted, error in (
        ("enqueue", misspelt, AttributeError),
        ("set_address", too_many, TypeError),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(context, method, planted)
            with pytest.raises(error):
                plain.load()
        assert plain.cuda.is_empty


@pytest.mark.parametrize("early", ["refill", "read"])
def test_the_gpu_double_shows_a_missing_wait(
    plain: Machine, monkeypatch: pytest.MonkeyPatch, early: str
) -> None:
    """Numbers are wrong, not right by chance, where a step does not wait for the stream."""
    driver = SlotDriver(plain.load())
    driver.run(chunk=(0, tokens(3, 0)))
    driver.check(driver.run({0: 1}), [0])
    with monkeypatch.context() as patch:
        patch.setattr(plain.cuda, "synchronize", lambda stream: None)
        first = driver.run({0: 2})
    if early == "read":
        with pytest.raises(AssertionError, match="Not equal"):
            driver.check(first, [0])
    else:
        second = driver.run({0: 3})
        with pytest.raises(AssertionError, match="Not equal"):
            driver.check(second, [0])


# The choice of the backend.


def test_threads_are_refused_for_a_gpu(folder: Path) -> None:
    with pytest.raises(EngineError, match=r"threads is 4, but .* runs on a GPU; leave it out"):
        load_backend(folder, make_manifest(), threads=4)


def test_a_whole_engine_goes_to_tensorrt(folder: Path, tmp_path: Path) -> None:
    """Up to the GPU, which is the real CUDA's to refuse here."""
    pytest.importorskip("cuda.bindings")
    from edgellama.runtime import cuda

    try:
        cuda.Cuda()
    except EngineError:
        pass
    else:
        pytest.skip("this machine has a GPU")
    (tmp_path / "model.plan").write_bytes((folder / "model.plan").read_bytes())
    write_letter_files(tmp_path)
    write_manifest(tmp_path, replace(make_manifest(), files=record_files(tmp_path)))
    Machine(tmp_path)
    with pytest.raises(EngineError, match="CUDA: cudaGetDeviceCount failed: cudaError"):
        Engine.load(tmp_path)
    with pytest.raises(EngineError, match="threads is 2"):
        Engine.load(tmp_path, threads=2)
