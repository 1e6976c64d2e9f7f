"""The ONNX Runtime backend on a small attention graph, against the same sums in numpy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from letter_codec import letter, write_letter_files
from slot_driver import SlotDriver
from small_llama import (
    CAPACITY,
    SLOTS,
    VOCAB,
    expected_logits,
    greedy,
    tokens,
)

from edgellama.runtime.completion import Collector
from edgellama.runtime.engine import Engine
from edgellama.runtime.event import FinishReason
from edgellama.runtime.manifest import (
    EngineError,
    Manifest,
    record_files,
    write_manifest,
)
from edgellama.runtime.request import Request, Sampling, Stop

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from ort_graph import KV, MANIFEST, MIXED_MANIFEST, PROFILE, make_graph

from edgellama.runtime.ort import OrtBackend

Load = Callable[[], OrtBackend]


@pytest.fixture(scope="module")
def engine_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    make_graph(folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def mixed_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    make_graph(folder / "model.onnx", mixed=True)
    return folder


@pytest.fixture(params=["apart", "mixed"])
def load(request: pytest.FixtureRequest, engine_dir: Path, mixed_dir: Path) -> Load:
    """Load a backend whose rows and chunks are computed apart, or in one step."""
    is_mixed = request.param == "mixed"
    folder, manifest = (mixed_dir, MIXED_MANIFEST) if is_mixed else (engine_dir, MANIFEST)
    return lambda: OrtBackend.load(folder, manifest)


@pytest.fixture
def backend(load: Load) -> OrtBackend:
    return load()


def test_describes_itself(backend: OrtBackend) -> None:
    assert (backend.slots, backend.capacity, backend.vocab_size) == (SLOTS, CAPACITY, VOCAB)


def test_chunks_equal_the_whole_prompt(backend: OrtBackend) -> None:
    driver, prompt = SlotDriver(backend), tokens(19, 0)
    assert driver.run(chunk=(1, prompt[:8]), is_last=False).shape == (0, VOCAB)
    assert driver.run(chunk=(1, prompt[8:16]), is_last=False).shape == (0, VOCAB)
    driver.check(driver.run(chunk=(1, prompt[16:])), [1])


def test_ragged_rows_and_a_chunk_in_one_step(backend: OrtBackend) -> None:
    driver = SlotDriver(backend)
    for slot, count in ((0, 3), (1, 11), (3, 6)):
        driver.check(driver.run(chunk=(slot, tokens(count, slot))), [slot])
    driver.check(driver.run({0: 5, 1: 6, 3: 7}, (2, tokens(8, 9))), [0, 1, 3, 2])
    # The order of the rows is the step's, not that of the slots.
    driver.check(driver.run({3: 1, 0: 2, 2: 3, 1: 4}), [3, 0, 2, 1])


@pytest.mark.parametrize("idle", [0, 1, 2, 3])
def test_a_slot_in_mid_prefill_survives_its_neighbours(backend: OrtBackend, idle: int) -> None:
    driver, prompt = SlotDriver(backend), tokens(14, 5)
    others = [slot for slot in range(SLOTS) if slot != idle]
    for slot in others:
        driver.run(chunk=(slot, tokens(2 + slot, slot)))
    driver.run(chunk=(idle, prompt[:8]), is_last=False)
    for _ in range(3):  # a step between two chunks, more often than the scheduler would
        driver.check(driver.run(dict.fromkeys(others, 4)), others)
    driver.run(dict.fromkeys(others, 3), (idle, prompt[8:12]), is_last=False)
    driver.check(driver.run(dict.fromkeys(others, 2), (idle, prompt[12:])), [*others, idle])


@pytest.mark.parametrize("slot", range(SLOTS))
def test_a_chunk_stands_anywhere_among_the_rows(backend: OrtBackend, slot: int) -> None:
    """Its slot inside the range of the rows or outside, its prompt up to the last position."""
    driver, prompt = SlotDriver(backend), tokens(CAPACITY - 1, 6)
    others = [other for other in range(SLOTS) if other != slot]
    for other in others:
        driver.run(chunk=(other, tokens(1 + other, other)))
    for start in range(0, len(prompt) - 5, 5):
        chunk = (slot, prompt[start : start + 5])
        driver.check(driver.run(dict.fromkeys(others, 3), chunk, is_last=False), others)
    rest = prompt[len(driver.held[slot]) :]
    driver.check(driver.run(dict.fromkeys(others, 2), (slot, rest)), [*others, slot])
    driver.check(driver.run({slot: 1}), [slot])


def test_steps_of_one_size_bind_nothing_new_but_the_chunks_slot(backend: OrtBackend) -> None:
    """Sizes, rows and the chunk's slot change in turn, and come back to what was bound before."""
    driver = SlotDriver(backend)
    for round_ in range(3):
        for slot in range(SLOTS):
            driver.held[slot] = []
            driver.check(driver.run(chunk=(slot, tokens(2 + slot % 2, slot + round_))), [slot])
        driver.held[1] = []
        for rows in ((0, 2), (2,), (0, 2), (0, 3)):
            driver.check(driver.run(dict.fromkeys(rows, 1)), list(rows))
        driver.check(driver.run({0: 2, 2: 2}, (1, tokens(3, 8))), [0, 2, 1])
        driver.held[3] = []
        driver.check(driver.run({0: 2, 2: 2}, (3, tokens(3, 9))), [0, 2, 3])


def test_a_reused_slot_needs_no_cleaning(backend: OrtBackend) -> None:
    driver = SlotDriver(backend)
    driver.run(chunk=(0, tokens(20, 1)))
    driver.held[0] = []
    driver.check(driver.run(chunk=(0, tokens(5, 2))), [0])
    driver.check(driver.run({0: 9}), [0])


def test_a_beginning_is_copied_between_slots(backend: OrtBackend) -> None:
    SlotDriver(backend).check_copies()


def test_prefixes_are_saved_and_restored(backend: OrtBackend) -> None:
    SlotDriver(backend).check_saved()


def test_a_prompt_is_scored_beside_rows(backend: OrtBackend) -> None:
    SlotDriver(backend).check_scored()


def test_a_slot_fills_to_its_last_position(backend: OrtBackend) -> None:
    driver = SlotDriver(backend)
    driver.run(chunk=(0, tokens(4, 1)))
    driver.run(chunk=(2, tokens(CAPACITY - 1, 2)))
    driver.check(driver.run({0: 1, 2: 1}), [0, 2])
    assert len(driver.held[2]) == CAPACITY
    with pytest.raises(ValueError, match="no position left"):
        driver.run({2: 1})
    with pytest.raises(ValueError, match="do not fit a slot of 24"):
        driver.run(chunk=(2, [1]))
    driver.check(driver.run({0: 1}), [0])


def test_matches_itself_alone(load: Load) -> None:
    """A batch changes no row beyond rounding."""
    together, alone = SlotDriver(load()), SlotDriver(load())
    for slot in range(SLOTS):
        together.run(chunk=(slot, tokens(3 + slot, slot)))
        alone.run(chunk=(slot, tokens(3 + slot, slot)))
    rows = together.run({slot: slot for slot in range(SLOTS)})
    for slot in range(SLOTS):
        np.testing.assert_allclose(rows[slot], alone.run({slot: slot})[0], atol=2e-6)


def test_every_position_of_a_chunk(backend: OrtBackend) -> None:
    text = tokens(15, 3)
    logits = np.concatenate(
        [backend.run_tokens(2, text[:6], 0), backend.run_tokens(2, text[6:], 6)]
    )
    np.testing.assert_allclose(logits, expected_logits(text), atol=2e-5)
    assert logits.dtype == np.float32


def test_a_quantised_head(tmp_path: Path) -> None:
    make_graph(tmp_path / "model.onnx", quantised=True)
    backend, prompt = OrtBackend.load(tmp_path, MANIFEST, threads=2), tokens(9, 0)
    exact = expected_logits(prompt)[-1]
    driver = SlotDriver(backend)
    assert driver.run(chunk=(0, prompt[:5]), is_last=False).shape == (0, VOCAB)
    (row,) = driver.run(chunk=(0, prompt[5:]))
    assert 0 < np.abs(row - exact).max() < 0.05


def test_memory_is_shared_not_copied(backend: OrtBackend) -> None:
    """The caches that the graph returns are the pool itself."""
    driver = SlotDriver(backend)
    driver.run(chunk=(1, tokens(3, 0)))
    for name, array in backend.cache(1, CAPACITY).items():
        assert array[:, :3].any() and not array[:, 3:].any(), name
    for name, array in backend.cache(0, CAPACITY).items():
        assert not array.any(), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: replace(m, kv=replace(m.kv, layers=3)), "past_key_values.2.key is absent"),
        (lambda m: replace(m, kv=replace(m.kv, capacity=32)), r"the runtime needs .* 32, 16\]"),
        (lambda m: replace(m, inputs=m.inputs[1:]), "input_ids is .*; engine.json says absent"),
        (lambda m: replace(m, model=replace(m.model, vocab_size=41)), r"logits is .*\[\?, 41\]"),
        (lambda m: replace(m, kv=replace(m.kv, dtype="float16")), "kv.dtype is 'float16'"),
        (lambda m: replace(m, graph="other.onnx"), "cannot load it"),
    ],
)
def test_another_graph_is_refused(
    engine_dir: Path, change: Callable[[Manifest], Manifest], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        OrtBackend.load(engine_dir, change(MANIFEST))


def test_a_graph_of_the_other_kind_is_refused(engine_dir: Path, mixed_dir: Path) -> None:
    with pytest.raises(EngineError, match=r"input_ids is int64 \[\?, \?\]; engine\.json says"):
        OrtBackend.load(engine_dir, MIXED_MANIFEST)
    with pytest.raises(EngineError, match=r"input_ids is int64 \[1, \?\]; engine\.json says"):
        OrtBackend.load(mixed_dir, MANIFEST)


def test_zero_threads_are_refused(engine_dir: Path) -> None:
    with pytest.raises(EngineError, match="threads is 0"):
        OrtBackend.load(engine_dir, MANIFEST, threads=0)


@pytest.fixture(scope="module")
def whole_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with all files: graph, a tokenizer of one letter a token, manifest."""
    folder: Path = tmp_path_factory.mktemp("whole")
    make_graph(folder / "model.onnx")
    write_letter_files(folder)
    write_manifest(folder, replace(MANIFEST, files=record_files(folder)))
    return folder


def test_a_loaded_engine_continues_many_prompts_at_once(whole_engine: Path) -> None:
    prompts = [tokens(1 + 3 * i % 17, i) for i in range(18)]
    expected = [greedy(prompt, CAPACITY - len(prompt)) for prompt in prompts]
    with Engine.load(whole_engine, threads=1) as engine:
        collectors = [Collector() for _ in prompts]
        requests = [
            Request(tuple(prompt), engine.codec.generation.default_sampling) for prompt in prompts
        ]
        # At most slots + queue at once; the others follow as these end.
        gate = threading.Semaphore(SLOTS + PROFILE.limits.max_queue)
        for request, collector in zip(requests, collectors, strict=True):
            gate.acquire()

            def listen(event: object, collector: Collector = collector) -> None:
                collector(event)  # type: ignore[arg-type]
                if collector.is_ended:
                    gate.release()

            engine.submit(request, listen)
        results = [collector.result() for collector in collectors]
        assert [list(result.token_ids) for result in results] == expected
        assert [result.text for result in results] == ["".join(map(letter, e)) for e in expected]
        assert {result.finish_reason for result in results} == {FinishReason.CONTEXT_FULL}
        # Half as many steps as tokens at most: the requests did share them.
        stats = engine.stats()
        assert stats.steps < sum(map(len, expected)) / 2
        assert 0 < stats.run_seconds < stats.seconds.backend
        assert engine.manifest.kv == KV


def test_a_loaded_engine_stops_at_a_string(whole_engine: Path) -> None:
    prompt = tokens(6, 1)
    expected = greedy(prompt, 10)
    string = letter(expected[4]) + letter(expected[5])
    with Engine.load(whole_engine) as engine:
        stop = Stop(max_new_tokens=10, strings=(string,))
        result = engine.generate(Request(tuple(prompt), Sampling(temperature=0.0), stop))
    text = "".join(map(letter, expected))
    assert result.text == text[: text.index(string)]
    assert (result.finish_reason, result.match) == (FinishReason.STOP_STRING, string)


def test_an_altered_engine_is_refused_unless_unchecked(whole_engine: Path, tmp_path: Path) -> None:
    for path in whole_engine.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "generation.json").open("a", encoding="utf-8") as stream:
        stream.write("\n")
    with pytest.raises(EngineError, match=r"generation\.json has .* bytes"):
        Engine.load(tmp_path)
    Engine.load(tmp_path, check_files=False).close()


def test_threads_that_no_cpu_has_are_refused(engine_dir: Path) -> None:
    """Each is made at once: a hundred thousand would hang the load instead of telling."""
    with pytest.raises(EngineError, match=r"threads is 100000; it must be in \[1, 1024\]"):
        OrtBackend.load(engine_dir, MANIFEST, threads=100_000)
