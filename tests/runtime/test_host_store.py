"""Engines that keep prefixes in the memory of the host: more prompts in turn than there are slots.

The backend keeps the fed tokens, and every token depends on all before it: a prefix that came back
wrong would change the answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from history_engine import CAPACITY, CHUNK, VOCAB, HistoryBackend, byte_codec

from edgellama.profiles.profile import Limits
from edgellama.runtime.completion import Collector
from edgellama.runtime.engine import Engine
from edgellama.runtime.manifest import EngineError
from edgellama.runtime.request import Request, Sampling, Stop

GREEDY = Sampling(temperature=0.0)
NEW = 4
PROMPTS = [tuple((7 * i + 31 * n) % 256 for i in range(40)) for n in range(6)]
MIB = 1 << 20
Make = Callable[..., Engine]


@pytest.fixture
def make() -> Iterator[Make]:
    engines: list[Engine] = []

    def make_engine(slots: int, mib: int = 0, preempt: bool = False) -> Engine:
        limits = Limits(slots, CAPACITY, CHUNK, 64, prefix_store_mib=mib)
        backend, codec = HistoryBackend(slots), byte_codec()
        engines.append(Engine(backend, codec, limits, preempt=preempt))  # type: ignore[arg-type]
        return engines[-1]

    yield make_engine
    for engine in engines:
        engine.close()


def ask(prompt: tuple[int, ...], **more: object) -> Request:
    return Request(prompt, GREEDY, Stop(max_new_tokens=NEW, ignore_eos=True), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("slots", [1, 2])
def test_the_first_of_many_prompts_is_restored(make: Make, slots: int) -> None:
    solo = [make(1).generate(ask(prompt)).token_ids for prompt in PROMPTS]
    engine = make(slots, 6)
    for prompt, expected in zip(PROMPTS, solo, strict=True):
        answer = engine.generate(ask(prompt))
        assert (answer.token_ids, answer.usage.cached_prompt_tokens) == (expected, 0)
    before = engine.stats()
    held = len(PROMPTS[0]) + NEW - 1  # the last token drawn was never fed
    assert before.stored_bytes == (len(PROMPTS) - slots) * held << 14
    assert before.restored_tokens == 0
    again = engine.generate(ask(PROMPTS[0]))
    assert (again.token_ids, again.usage.cached_prompt_tokens) == (solo[0], 39)
    after = engine.stats()
    assert after.prompt_tokens - before.prompt_tokens == 1
    assert (after.restored_tokens, after.cached_prompt_tokens) == (39, 39)
    record = next(step.choice for step in reversed(engine.steps()) if step.choice.chunk)
    assert (record.saves, record.restores) == (1, 1)
    backend = engine._backend
    assert isinstance(backend, HistoryBackend)
    assert sum(map(len, backend.saved.values())) << 14 == after.stored_bytes <= 6 * MIB


def test_a_conversation_goes_on_behind_what_was_stored_of_it(make: Make) -> None:
    engine = make(1, 6)
    first = engine.generate(ask(PROMPTS[0]))
    engine.generate(ask(PROMPTS[1]))
    turn = (*PROMPTS[0], *first.token_ids, 1, 2, 3)
    answer = engine.generate(ask(turn))
    assert answer.usage.cached_prompt_tokens == 43
    assert answer.token_ids == make(1).generate(ask(turn)).token_ids
    engine.generate(ask(PROMPTS[1]))
    assert engine.stats().stored_bytes == (43 + len(turn) + NEW - 1) << 14, "the longer replaced it"


def test_the_oldest_leave_a_full_store(make: Make) -> None:
    engine = make(1, 2)  # room for two of 43 tokens
    for prompt in PROMPTS[:4]:
        engine.generate(ask(prompt))
    assert engine.stats().stored_bytes == 2 * 43 << 14
    # The last is in the slot, two before it in the store.
    assert engine.generate(ask(PROMPTS[0])).usage.cached_prompt_tokens == 0
    assert engine.generate(ask(PROMPTS[3])).usage.cached_prompt_tokens == 39
    assert engine.generate(ask(PROMPTS[2])).usage.cached_prompt_tokens == 0


def test_another_salt_gets_nothing_of_it(make: Make) -> None:
    engine = make(1, 6)
    engine.generate(ask(PROMPTS[0], cache_salt="one"))
    engine.generate(ask(PROMPTS[1]))
    for salt, cached in (("two", 0), ("", 0), ("one", 39)):
        answer = engine.generate(ask(PROMPTS[0], cache_salt=salt))
        assert answer.usage.cached_prompt_tokens == cached


def test_nothing_is_stored_unless_asked_for(make: Make) -> None:
    engine = make(1)
    for prompt in (*PROMPTS, PROMPTS[0]):
        assert engine.generate(ask(prompt)).usage.cached_prompt_tokens == 0
    stats = engine.stats()
    assert (stats.stored_bytes, stats.restored_tokens) == (0, 0)


@pytest.mark.parametrize(("mib", "stored"), [(0, False), (6, True)])
def test_nothing_is_stored_without_a_size(make: Make, mib: int, stored: bool) -> None:
    engine = make(1, mib)
    for prompt in PROMPTS[:2]:
        engine.generate(ask(prompt))
    assert (engine.stats().stored_bytes > 0) == stored


def test_a_size_that_no_machine_has_is_refused(make: Make) -> None:
    words = rf"limits\.prefix_store_mib is {1 << 40}; .* 0, .* or from 1, .* to"
    with pytest.raises(EngineError, match=words):
        make(1, 1 << 40)


def test_a_size_without_room_for_a_prefix_is_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HistoryBackend, "token_bytes", 1 << 18)
    with pytest.raises(EngineError, match="from 4, which is room for a prefix of 16 tokens of 262"):
        make(1, 3)
    make(1, 4)


def test_a_random_load_equals_its_solo_runs(make: Make) -> None:
    draw = random.Random(5)
    requests = [
        Request(
            (*draw.choice(PROMPTS)[: draw.randint(10, 40)], *draw.choices(range(VOCAB - 2), k=5)),
            Sampling(temperature=0.8, seed=i),
            Stop(max_new_tokens=draw.randint(1, 12)),
            request_id=f"r{i}",
            cache_salt=draw.choice(("", "", "tenant")),
            priority=draw.randint(0, 2),
        )
        for i in range(60)
    ]
    solo = [make(1).generate(one) for one in requests]
    engine, collectors = make(2, 3, preempt=True), [Collector() for _ in requests]
    for one, collector in zip(requests, collectors, strict=True):
        engine.submit(one, collector)
    for expected, collector in zip(solo, collectors, strict=True):
        result = collector.result()
        assert result == replace(expected, timing=result.timing, usage=result.usage)
    stats = engine.stats()
    assert stats.restored_tokens > 100 and 2 * MIB < stats.stored_bytes <= 3 * MIB
