"""Greedy answers of a backend, batched as in serving."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from edgellama.benchmark.language_model import OnAnswer, require_room
from edgellama.runtime.backend import Backend
from edgellama.runtime.scheduler import Scheduler
from edgellama.runtime.sequence import Sequence as Scheduled


def generate_greedily(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    chunk: int,
    on_answer: OnAnswer | None = None,
) -> list[list[int]]:
    """Return the most likely continuation of each prompt, a stop id at its end included.

    All slots are kept busy by the scheduler of serving; prompts run in chunks of `chunk`. An answer
    ends at a stop id, at `max_new_tokens` or where the slot is full.
    Raises EvaluationError for a prompt without a token or without room for one more.
    """
    require_room(prompts, backend.capacity)
    scheduler = Scheduler(backend.slots, backend.capacity, chunk, max(1, len(prompts)))
    sequences = [
        Scheduled(str(i), tuple(ids), min(max_new_tokens, backend.capacity - len(ids)))
        for i, ids in enumerate(prompts)
    ]
    for sequence in sequences:
        scheduler.add(sequence)
    done = 0
    while scheduler.has_work:
        scheduler.admit()
        step = scheduler.schedule()
        assert step is not None, "an admitted sequence always has a next step"
        tokens = backend.run(step).argmax(axis=-1).tolist()
        finished = {
            sequence.id
            for sequence, token in zip(scheduler.sequences(step), tokens, strict=True)
            if token in stop_ids or len(sequence.output) + 1 >= sequence.max_new_tokens
        }
        scheduler.update(step, tokens, finished)
        done += len(finished)
        if finished and on_answer is not None:
            on_answer(done, len(prompts))
    return [sequence.output for sequence in sequences]
