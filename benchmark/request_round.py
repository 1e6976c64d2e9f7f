"""Some requests at once through an engine in this process, and where their time went."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event as Flag

from edgellama.benchmark.engine_stream import fixed_length
from edgellama.benchmark.latency_grid import MeasurementError
from edgellama.benchmark.stream import StreamTimes
from edgellama.runtime.engine import Engine
from edgellama.runtime.event import Delta, End, Event, FinishReason
from edgellama.runtime.step_loop import EngineStats

# The parts of a step in their order; `bind` is what a backend does besides running the model.
PARTS = ("schedule", "bind", "run", "sample", "detokenise", "deliver")


@dataclass(frozen=True)
class Round:
    """The streams of one round, its steps, the seconds of each part of them, and the messages."""

    streams: tuple[StreamTimes, ...]
    steps: int
    seconds: dict[str, float]
    deltas: tuple[Delta, ...]

    @property
    def prefill_seconds(self) -> float:
        """Seconds from the first send to the last first token: decode of earlier rows included."""
        first = max(stream.arrivals[0][0] for stream in self.streams)
        return first - min(stream.sent for stream in self.streams)


def run_round(engine: Engine, prompts: Sequence[tuple[int, ...]], output_tokens: int) -> Round:
    """Send all prompts at once, greedy, stop ids ignored, and wait for every end.

    Raises MeasurementError when one does not end with its last token.
    """
    streams = [StreamTimes(sent=0.0) for _ in prompts]
    ends: list[End | None] = [None] * len(prompts)
    deltas: list[Delta] = []
    finished = Flag()

    def listener(index: int) -> Callable[[Event], None]:
        def listen(event: Event) -> None:
            now = time.perf_counter()
            if isinstance(event, Delta):
                streams[index].arrive(now, len(event.token_ids))
                deltas.append(event)
            elif isinstance(event, End):
                streams[index].ended = now
                ends[index] = event
                if all(ends):
                    finished.set()

        return listen

    before = engine.stats()
    for index, prompt in enumerate(prompts):
        request = fixed_length(prompt, output_tokens)
        streams[index].sent = time.perf_counter()
        engine.submit(request, listener(index))
    finished.wait()
    after = engine.stats()
    for end in ends:
        if end is None or end.reason is not FinishReason.MAX_TOKENS:
            raise MeasurementError(f"a stream ended with {end}; nothing was measured")
    return Round(tuple(streams), after.steps - before.steps, _parts(before, after), tuple(deltas))


def _parts(before: EngineStats, after: EngineStats) -> dict[str, float]:
    def spent(stats: EngineStats) -> dict[str, float]:
        seconds = stats.seconds
        return {
            "schedule": seconds.schedule,
            "bind": seconds.backend - stats.run_seconds,
            "run": stats.run_seconds,
            "sample": seconds.sample,
            "detokenise": seconds.detokenise,
            "deliver": seconds.deliver,
        }

    first, last = spent(before), spent(after)
    return {part: last[part] - first[part] for part in PARTS}
