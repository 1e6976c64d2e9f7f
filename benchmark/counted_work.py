"""Fixed work of scheduler, sampler and detokeniser, for a tool that counts instructions.

Between two parts the process asks for its parent's id, a call that nothing else here makes, at
which callgrind is told to write down what it has counted. Every part runs once before it counts,
and begins with an empty collector of garbage: what was made before it, of which there is more with
a larger tokenizer, would otherwise decide when that runs within the part.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgellama.runtime.request import Sampling, Stop
from edgellama.runtime.sampling import Sampler, SamplingState
from edgellama.runtime.scheduler import Scheduler
from edgellama.runtime.sequence import Sequence
from edgellama.runtime.text import TextCodec

SLOTS, CAPACITY, CHUNK, QUEUE = 8, 512, 64, 64
REQUESTS, PROMPT_TOKENS, OUTPUT_TOKENS = 24, 100, 20
VOCABULARY, ROWS, DRAWS = 32_000, 8, 4
TEXT_TOKENS = 400
SEED = 2026


def schedule() -> None:
    """Take requests through more slots than there are, to their ends."""
    scheduler = Scheduler(SLOTS, CAPACITY, CHUNK, QUEUE)
    for number in range(REQUESTS):
        prompt = tuple(range(number, number + PROMPT_TOKENS))
        scheduler.add(Sequence(f"r{number}", prompt, OUTPUT_TOKENS))
    while scheduler.has_work:
        scheduler.admit()
        step = scheduler.schedule()
        assert step is not None
        rows = scheduler.sequences(step)
        scheduler.choice(step)
        finished = {row.id for row in rows if len(row.output) + 1 == OUTPUT_TOKENS}
        scheduler.update(step, [1] * len(rows), finished)


def sampling() -> Callable[[], None]:
    """Return draws for rows that are greedy, filtered and penalised."""
    generator = np.random.default_rng(SEED)
    logits = generator.standard_normal((ROWS, VOCABULARY)).astype(np.float32)
    sampler = Sampler(VOCABULARY)
    kinds = (
        Sampling(temperature=0.0),
        Sampling(temperature=0.7, top_k=50),
        Sampling(temperature=0.8, top_p=0.9, min_p=0.01),
        Sampling(temperature=1.0, repetition_penalty=1.1, frequency_penalty=0.2),
    )

    def run() -> None:
        states = [
            SamplingState(
                kinds[row % len(kinds)],
                (1, 2, 3),
                SEED + row,
                banned_until_min=(),
                min_new_tokens=0,
                top_logprobs=None,
            )
            for row in range(ROWS)
        ]
        for _ in range(DRAWS):
            sampler.sample(logits, states)

    return run


def detokenising(engine: Path) -> Callable[[], None]:
    """Return the text of many tokens, one at a time, with a stop string to look for."""
    codec = TextCodec.load(engine)
    drawn = np.random.default_rng(SEED).integers(codec.vocab_size, size=TEXT_TOKENS)
    ids = [int(each) for each in drawn]

    def run() -> None:
        decoder = codec.stream((), Stop(strings=("no such text",)))
        for token in ids:
            decoder.push(token)
        decoder.finish()

    return run


def main(engine: Path) -> None:
    """Run the parts in the order of `instruction_counts.PARTS`, a mark on both sides of each."""
    parts = (schedule, sampling(), detokenising(engine))
    for part in parts:
        part()
    for part in parts:
        gc.collect()
        gc.freeze()
        os.getppid()
        part()
        os.getppid()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
