"""Greedy answers, batched over slots, on a backend whose every next token is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama.benchmark.first_difference import (
    PROMPT_TOKENS,
    GreedyDivergence,
    first_difference,
    prompt_of,
)
from edgellama.benchmark.greedy import generate_greedily
from edgellama.benchmark.language_model import EvaluationError
from edgellama.runtime.backend import Logits
from edgellama.runtime.step import Step

VOCAB = 31


def following(history: list[int]) -> int:
    """The next token: it depends on every token before it, so that a mixed-up cache shows."""
    value = 7
    for token in history:
        value = (value * 17 + token + 1) % 1009
    return value % VOCAB


class Hashing:
    """Keeps the tokens of each slot, as a cache would, and refuses a gap in the positions."""

    vocab_size = VOCAB
    run_seconds = 0.0

    def __init__(self, slots: int, capacity: int) -> None:
        self.slots = slots
        self.capacity = capacity
        self.steps = 0
        self._cache: list[list[int]] = [[] for _ in range(slots)]

    def run(self, step: Step) -> Logits:
        self.steps += 1
        wanted = []
        for row in step.decode:
            wanted.append(self._feed(row.slot, (row.token,), row.position))
        if step.prefill is not None:
            chunk = step.prefill
            token = self._feed(chunk.slot, chunk.tokens, chunk.start)
            wanted += [token] if chunk.is_last else []
        logits = np.zeros((len(wanted), VOCAB), np.float32)
        logits[np.arange(len(wanted)), wanted] = 1.0
        return logits

    def close(self) -> None:
        self._cache.clear()

    def _feed(self, slot: int, tokens: tuple[int, ...], start: int) -> int:
        assert start in (0, len(self._cache[slot])) and start + len(tokens) <= self.capacity
        self._cache[slot][start:] = tokens
        return following(self._cache[slot])


def one_by_one(
    prompts: list[list[int]], new_tokens: int, stop_ids: set[int], capacity: int
) -> list[list[int]]:
    answers = []
    for prompt in prompts:
        history = list(prompt)
        while len(history) - len(prompt) < new_tokens and len(history) < capacity:
            history.append(following(history))
            if history[-1] in stop_ids:
                break
        answers.append(history[len(prompt) :])
    return answers


@given(
    prompts=st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12), max_size=9),
    slots=st.integers(1, 4),
    chunk=st.integers(1, 5),
    new_tokens=st.integers(1, 10),
    stop_ids=st.sets(st.integers(0, VOCAB - 1), max_size=4),
)
def test_answers_are_those_of_one_prompt_at_a_time(
    prompts: list[list[int]], slots: int, chunk: int, new_tokens: int, stop_ids: set[int]
) -> None:
    backend = Hashing(slots, 16)
    told: list[int] = []
    answers = generate_greedily(
        backend,
        prompts,
        max_new_tokens=new_tokens,
        stop_ids=stop_ids,
        chunk=chunk,
        on_answer=lambda done, total: told.append(done),
    )
    assert answers == one_by_one(prompts, new_tokens, stop_ids, 16)
    assert not prompts or told[-1] == len(prompts)


def test_the_slots_work_together() -> None:
    """Eight answers of ten tokens: four slots take about a quarter of the steps of one."""
    prompts = [[n, n + 1] for n in range(8)]
    options = {"max_new_tokens": 10, "stop_ids": (), "chunk": 4}
    alone, together = Hashing(1, 64), Hashing(4, 64)
    assert generate_greedily(alone, prompts, **options) == generate_greedily(
        together, prompts, **options
    )
    assert together.steps < alone.steps / 3


def test_a_prompt_without_room_is_refused() -> None:
    options = {"max_new_tokens": 4, "stop_ids": (), "chunk": 4}
    with pytest.raises(EvaluationError, match=r"prompt 2 has 16 tokens.*capacity of 16"):
        generate_greedily(Hashing(1, 16), [[1], [1] * 16], **options)
    with pytest.raises(EvaluationError, match="no token"):
        generate_greedily(Hashing(1, 16), [[]], **options)


def test_the_first_difference() -> None:
    assert first_difference([1, 2, 3], [1, 2, 3]) == 3
    assert first_difference([1, 2, 3], [1, 9, 3]) == 1
    assert first_difference([4], [5]) == 0


def test_the_summary_of_differences() -> None:
    """Answers that never part count as all of their tokens."""
    assert GreedyDivergence(8, (8, 1, 8, 3)).as_dict() == {
        "prompts": 4,
        "new_tokens": 8,
        "identical": 2,
        "first_difference_mean": 5.0,
        "first_difference_median": 5.5,
        "first_difference_min": 1,
    }


def test_a_prompt_is_the_beginning_of_a_document() -> None:
    ids = list(range(100))
    assert prompt_of(ids, 512, 64) == ids[:PROMPT_TOKENS]
    assert prompt_of(ids, 70, 64) == ids[:6]
    assert prompt_of(ids[:PROMPT_TOKENS], 512, 64) is None
    assert prompt_of(ids, 64, 64) is None
