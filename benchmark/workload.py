"""The requests that a driver sends: random ids of the vocabulary in given lengths."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from edgellama.benchmark.lengths import Lengths, Pair


@dataclass(frozen=True)
class Job:
    """One request; the answer has exactly `output_tokens`, for stop ids are ignored."""

    prompt_ids: tuple[int, ...]
    output_tokens: int


@dataclass(frozen=True)
class Workload:
    """Jobs in the lengths of a list; `seed` fixes their order and their tokens."""

    lengths: Lengths
    vocab_size: int
    seed: int

    def jobs(self, point: str) -> Iterator[Job]:
        """Return the endless jobs of one measuring point.

        The lengths come in the same shuffled order at every point, so that points differ in the
        load and not in the work; the tokens differ, so that no point finds another's prompts in a
        cache. Only prefixes that requests share are the same everywhere.
        """
        order = list(self.lengths.pairs)
        random.Random(self.seed).shuffle(order)
        draw = random.Random(f"{self.seed} {point}")
        prefixes: dict[int, tuple[int, ...]] = {}
        while True:
            for pair in order:
                shared = self._prefix(pair, prefixes)
                yield Job((*shared, *self._ids(draw, pair.prompt)), pair.output)

    def _prefix(self, pair: Pair, known: dict[int, tuple[int, ...]]) -> tuple[int, ...]:
        if pair.prefix is None:
            return ()
        ids = known.get(pair.prefix, ())
        if len(ids) < pair.prefix_tokens:  # a clipped pair has less of it
            ids = self._ids(random.Random(f"{self.seed} prefix {pair.prefix}"), pair.prefix_tokens)
            known[pair.prefix] = ids
        return ids[: pair.prefix_tokens]

    def _ids(self, draw: random.Random, count: int) -> tuple[int, ...]:
        return tuple(draw.choices(range(self.vocab_size), k=count))
