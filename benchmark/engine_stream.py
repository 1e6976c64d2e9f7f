"""A request on an engine of this process, and when its tokens came."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from edgellama.benchmark.latency_grid import MeasurementError
from edgellama.benchmark.stream import StreamTimes
from edgellama.runtime.engine import Engine
from edgellama.runtime.event import Delta, End, Event, FinishReason
from edgellama.runtime.request import Request, Sampling, Stop

GREEDY = Sampling(temperature=0.0)


def fixed_length(
    prompt_ids: Sequence[int], output_tokens: int, sampling: Sampling = GREEDY
) -> Request:
    """Return a request for exactly `output_tokens`: no stop id ends it."""
    stop = Stop(max_new_tokens=output_tokens, ignore_eos=True)
    return Request(tuple(prompt_ids), sampling, stop)


class EngineStream:
    """Submits a request at its making; the times are taken on the engine's thread.

    `follow` is called there after each of its events: what must not wait until another thread has
    a processor is done there. Raises what `Engine.submit` does.
    """

    def __init__(
        self, engine: Engine, request: Request, follow: Callable[[], None] | None = None
    ) -> None:
        self._engine = engine
        self._follow = follow
        self._changed = threading.Condition()
        self._end: End | None = None
        self._tokens = 0
        self.times = StreamTimes(sent=time.perf_counter())
        self._id = engine.submit(request, self._listen)

    def _listen(self, event: Event) -> None:
        now = time.perf_counter()
        with self._changed:
            if isinstance(event, Delta):
                self.times.arrive(now, len(event.token_ids))
                self._tokens += len(event.token_ids)
            elif isinstance(event, End):
                self.times.ended = now
                self._end = event
                self._changed.notify_all()
        if self._follow is not None:
            self._follow()

    @property
    def tokens(self) -> int:
        """Tokens that came."""
        return self._tokens

    @property
    def has_ended(self) -> bool:
        """Whether no further token comes."""
        return self._end is not None

    def complete(self) -> End:
        """Wait for the last token; raises MeasurementError where the stream ends otherwise."""
        end = self._ended()
        if end.reason is not FinishReason.MAX_TOKENS:
            raise MeasurementError(f"a stream ended with {end}; nothing was measured")
        return end

    def cancel(self) -> None:
        """Stop it where it still runs, and wait for its end."""
        self._engine.cancel(self._id)
        self._ended()

    def _ended(self) -> End:
        with self._changed:
            self._changed.wait_for(lambda: self._end is not None)
            assert self._end is not None
            return self._end


@contextmanager
def running(
    engine: Engine, requests: Sequence[Request], follow: Callable[[], None] | None = None
) -> Iterator[list[EngineStream]]:
    """Give the streams of all requests; they are cancelled on every way out."""
    streams: list[EngineStream] = []
    try:
        for request in requests:
            streams.append(EngineStream(engine, request, follow))
        yield streams
    finally:
        for stream in streams:
            stream.cancel()
