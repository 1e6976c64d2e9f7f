"""Random load for a long time: every greedy answer is its solo run's, and nothing is left behind.

LOAD_SECONDS is how long: an hour where somebody has one.
"""

from __future__ import annotations

import os
import random
import threading
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from letter_codec import write_letter_files
from small_llama import CAPACITY, VOCAB, greedy, tokens

from edgellama.runtime.completion import Collector
from edgellama.runtime.engine import Engine
from edgellama.runtime.event import FinishReason
from edgellama.runtime.manifest import read_manifest, record_files, write_manifest
from edgellama.runtime.request import QueueFullError, Request, Sampling, Stop

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from ort_graph import MIXED_MANIFEST, make_graph

SECONDS = float(os.environ.get("LOAD_SECONDS", "45"))
CLIENTS = 6
WAIT = 60.0
PROMPTS = [tokens(1 + n % (CAPACITY - 3), n) for n in range(60)]
# What a process may grow by while it serves: allocators keep what they had at the busiest moment.
GROWTH_BYTES = 24 << 20


@cache
def alone(prompt: int, count: int) -> tuple[int, ...]:
    return tuple(greedy(PROMPTS[prompt], count))


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def engine_folder(tmp_path: Path) -> Path:
    make_graph(tmp_path / "model.onnx", mixed=True)
    write_letter_files(tmp_path)
    write_manifest(tmp_path, replace(MIXED_MANIFEST, files=record_files(tmp_path)))
    return tmp_path


class Client:
    """Sends one random request after the other, and counts how they ended."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self._engine, self._draw = engine, random.Random(seed)
        self.ended: dict[FinishReason, int] = {}
        self.refused = self.checked = 0
        self.failure: BaseException | None = None

    def run(self, until: float) -> None:
        try:
            while time.monotonic() < until:
                self._one()
        except BaseException as failure:
            self.failure = failure

    def _one(self) -> None:
        draw = self._draw
        prompt = draw.randrange(len(PROMPTS))
        room = CAPACITY - len(PROMPTS[prompt])
        count = draw.randint(1, room)
        is_greedy = draw.random() < 0.6
        sampling = Sampling(temperature=0.0 if is_greedy else 1.0, top_k=draw.choice((0, 5)))
        request = Request(
            tuple(PROMPTS[prompt]),
            sampling,
            Stop(max_new_tokens=count),
            top_logprobs=draw.choice((None, None, 0, 3)),
            cache_salt=draw.choice(("", "", "other")),
            priority=draw.randint(-2, 2),
            tenant=draw.choice(("", "a", "b")),
            n=draw.choice((1, 1, 1, 2)),
        )
        collector = Collector()
        try:
            request_id = self._engine.submit(request, collector)
        except QueueFullError:
            self.refused += 1
            return
        if draw.random() < 0.25:
            time.sleep(draw.random() * 0.01)
            self._engine.cancel(request_id)
        result = collector.result()
        for output in result.outputs:
            reason = output.finish_reason
            self.ended[reason] = self.ended.get(reason, 0) + 1
            if is_greedy:
                expected = alone(prompt, count)[: len(output.token_ids)]
                assert output.token_ids == expected, (prompt, count, reason)
                assert reason is FinishReason.CANCELLED or len(expected) == count
                self.checked += 1


@pytest.mark.slow
def test_a_long_random_load_is_exact_and_leaves_nothing(engine_folder: Path) -> None:
    threads_before = threading.active_count()
    limits = replace(read_manifest(engine_folder).profile.limits, prefix_store_mib=1)
    with Engine.load(engine_folder, threads=1, preempt=True, limits=limits) as engine:
        clients = [Client(engine, seed) for seed in range(CLIENTS)]
        grown: list[int] = []
        files = 0
        parts = 4
        for part in range(parts):  # the first warms up
            until = time.monotonic() + SECONDS / parts
            threads = [threading.Thread(target=each.run, args=(until,)) for each in clients]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(SECONDS + WAIT)
                assert not thread.is_alive(), "a client hangs"
            for each in clients:
                if each.failure is not None:
                    raise each.failure
            grown.append(resident_bytes())
            files = files or open_files()
            assert open_files() <= files, f"files are left open after part {part}"
        stats = engine.stats()
        assert (stats.running, stats.waiting) == (0, 0)
        assert stats.restored_tokens > 0 and stats.stored_bytes <= 1 << 20
        assert sum(each.checked for each in clients) > 100
        ended = {reason for each in clients for reason in each.ended}
        assert {FinishReason.MAX_TOKENS, FinishReason.CANCELLED} <= ended
        assert grown[-1] - grown[0] < GROWTH_BYTES, grown
        # Every slot is free: a request of each, all at once, and each is right.
        last = [Collector() for _ in range(MIXED_MANIFEST.kv.slots)]
        for number, collector in enumerate(last):
            stop = Stop(max_new_tokens=2)
            engine.submit(
                Request(tuple(PROMPTS[number]), Sampling(temperature=0.0), stop), collector
            )
        for number, collector in enumerate(last):
            assert collector.result().outputs[0].token_ids == alone(number, 2)
    deadline = time.monotonic() + 10
    while threading.active_count() > threads_before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= threads_before


def test_the_load_has_every_kind_of_prompt() -> None:
    lengths = {len(prompt) for prompt in PROMPTS}
    assert min(lengths) == 1 and max(lengths) > CAPACITY - 4
    assert all(0 <= token < VOCAB for prompt in PROMPTS for token in prompt)
