"""What a prompt costs whose beginning the cache holds already."""

from __future__ import annotations

import random
from typing import Any

from edgellama.benchmark.engine_stream import fixed_length, running
from edgellama.benchmark.series import ratio, series
from edgellama.runtime.engine import Engine

_LONGEST = 1024  # tokens of the prefix, where half a slot has them
_TAIL = 16  # tokens behind it
_LEAST_CAPACITY = 4 * _TAIL


def lacking_prefix_room(capacity: int) -> str | None:
    """Return why slots are too short for a prefix and what follows it, None where they are not."""
    if capacity < _LEAST_CAPACITY:
        return f"a slot holds {capacity} tokens; {_LEAST_CAPACITY} are needed"
    return None


class PrefixPart:
    """A new prefix in each round: a prompt that has it is computed, then one with another end."""

    def __init__(self, engine: Engine, draw: random.Random) -> None:
        self._engine, self._draw = engine, draw
        self._prefix = min(_LONGEST, engine.capacity // 2)
        self._cold: list[float] = []  # seconds to the first token
        self._cached: list[float] = []
        self._found: list[int] = []

    def run(self) -> None:
        """Run one round. Raises MeasurementError."""
        ids = range(self._engine.manifest.model.vocab_size)
        prefix = self._draw.choices(ids, k=self._prefix)
        # Two tails that differ in their first token, so that no more than the prefix is shared.
        first, second = (
            [begin, *self._draw.choices(ids, k=_TAIL - 1)] for begin in self._draw.sample(ids, k=2)
        )
        seconds, _ = self._ask([*prefix, *first])
        self._cold.append(seconds)
        seconds, found = self._ask([*prefix, *second])
        self._cached.append(seconds)
        self._found.append(found)

    def row(self) -> dict[str, Any]:
        """Return the figures of all rounds; `cached_tokens` is the least that a round found."""
        return {
            "prefix_tokens": self._prefix,
            "tail_tokens": _TAIL,
            "cached_tokens": min(self._found),
            "ttft_ms_cold": series([1e3 * each for each in self._cold]),
            "ttft_ms_cached": series([1e3 * each for each in self._cached]),
            "ratio": ratio(self._cached, self._cold),
        }

    def _ask(self, prompt: list[int]) -> tuple[float, int]:
        """Return the seconds to the first token, and how many tokens were found in the cache."""
        with running(self._engine, [fixed_length(prompt, 1)]) as [stream]:
            end = stream.complete()
        return stream.times.ttft, end.usage.cached_prompt_tokens
