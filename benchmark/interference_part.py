"""What a long prompt does to the streams beside it, and they to it, without a server."""

from __future__ import annotations

import random
import time
from threading import Event as Flag
from typing import Any

from edgellama.benchmark.engine_stream import EngineStream, fixed_length, running
from edgellama.benchmark.latency_grid import MeasurementError
from edgellama.benchmark.long_prompt import ALONE_TOKENS, STREAM_PROMPT, long_prompt
from edgellama.benchmark.percentiles import percentiles_ms
from edgellama.benchmark.series import ratio, series
from edgellama.benchmark.stream import gaps_between
from edgellama.runtime.engine import Engine
from edgellama.runtime.request import Request

_LONGEST = 2047  # tokens of the long prompt, where a slot has room


class InterferencePart:
    """Streams alone, then with a long prompt that enters, then alone again, so that both situations
    have contexts of the same length on average. Another long prompt goes through the idle engine,
    before the streams in one round and after them in the next."""

    def __init__(self, engine: Engine, slots: int, draw: random.Random) -> None:
        self._engine, self._draw = engine, draw
        self._plan = long_prompt(slots, engine.capacity, _LONGEST)
        self._alone: list[list[float]] = []  # gaps in seconds, a list a round
        self._beside: list[list[float]] = []
        self._ttft_idle: list[float] = []
        self._ttft_beside: list[float] = []

    def run(self) -> None:
        """Run one round. Raises MeasurementError."""
        is_idle_first = len(self._alone) % 2 == 0
        if is_idle_first:
            self._idle()
        self._with_streams()
        if not is_idle_first:
            self._idle()

    def row(self) -> dict[str, Any]:
        """Return the figures of all rounds."""
        alone = [percentiles_ms(gaps) for gaps in self._alone]
        beside = [percentiles_ms(gaps) for gaps in self._beside]
        return {
            "streams": self._plan.streams,
            "prompt_tokens": self._plan.tokens,
            "itl_ms_alone": percentiles_ms([gap for gaps in self._alone for gap in gaps]),
            "itl_ms_beside": percentiles_ms([gap for gaps in self._beside for gap in gaps]),
            "p50_ratio": ratio([each["p50"] for each in beside], [each["p50"] for each in alone]),
            "p99_ratio": ratio([each["p99"] for each in beside], [each["p99"] for each in alone]),
            "ttft_ms_idle": series([1e3 * each for each in self._ttft_idle]),
            "ttft_ms_beside": series([1e3 * each for each in self._ttft_beside]),
            "ttft_ratio": ratio(self._ttft_beside, self._ttft_idle),
        }

    def _idle(self) -> None:
        with running(self._engine, [self._long()]) as [prompt]:
            prompt.complete()
        self._ttft_idle.append(prompt.times.ttft)

    def _with_streams(self) -> None:
        output = self._engine.capacity - STREAM_PROMPT
        requests = [
            fixed_length(self._ids(STREAM_PROMPT), output) for _ in range(self._plan.streams)
        ]
        entry = _Entry(self._engine, self._long(), self._plan.streams)
        with running(self._engine, requests, entry.follow) as streams:
            entry.watch(streams)
            entry.over.wait()
        times = [stream.times for stream in streams]
        entered, first, last = entry.times()
        begin = max(each.arrivals[0][0] for each in times)
        alone = gaps_between(times, begin, entered) + gaps_between(times, first, last)
        self._alone.append(alone)
        self._beside.append(gaps_between(times, entered, first))
        self._ttft_beside.append(first - entered)

    def _long(self) -> Request:
        return fixed_length(self._ids(self._plan.tokens), 1)

    def _ids(self, count: int) -> list[int]:
        vocabulary = range(self._engine.manifest.model.vocab_size)
        return self._draw.choices(vocabulary, k=count)


class _Entry:
    """Lets the prompt enter when the streams have run alone, and ends when they have so again.

    All on the engine's thread: a waiting one might get a processor when the streams are over.
    """

    def __init__(self, engine: Engine, request: Request, count: int) -> None:
        self._engine, self._request, self._count = engine, request, count
        self._streams: list[EngineStream] = []
        self._prompt: EngineStream | None = None
        self._goal: int | None = None  # tokens of each stream at which all is over
        self._last: float | None = None
        self.over = Flag()

    def watch(self, streams: list[EngineStream]) -> None:
        """Begin: all streams are there."""
        self._streams = streams

    def follow(self) -> None:
        """Take the next step, after an event of a stream."""
        streams = self._streams
        if not streams or self._last is not None:
            return
        prompt = self._prompt
        least = min(stream.tokens for stream in streams)
        if any(stream.has_ended for stream in streams) or (
            prompt is not None and prompt.has_ended and not prompt.tokens
        ):
            self.over.set()
        elif prompt is None and least > ALONE_TOKENS:
            self._prompt = EngineStream(self._engine, self._request)
        elif prompt is not None and prompt.tokens and self._goal is None:
            self._goal = least + ALONE_TOKENS
        elif self._goal is not None and least >= self._goal:
            self._last = time.perf_counter()
            self.over.set()

    def times(self) -> tuple[float, float, float]:
        """Return when the prompt entered, when its token came and when all was over, in seconds.

        Raises MeasurementError where a stream ended before.
        """
        prompt = self._prompt
        if prompt is None or self._last is None:
            raise MeasurementError(
                f"one of {self._count} streams, or the prompt beside them, ended too early; "
                "nothing was measured"
            )
        prompt.complete()
        return prompt.times.sent, prompt.times.arrivals[0][0], self._last
