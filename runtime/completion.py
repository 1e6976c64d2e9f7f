"""All events of one request as one result."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from edgellama.runtime.request import (
    Admission,
    Delta,
    End,
    EngineFailedError,
    Event,
    FinishReason,
    Timing,
    TokenLogprobs,
    Usage,
)


@dataclass(frozen=True)
class Completion:
    """A finished generation; `token_ids` has every drawn token, a stop id at its end included."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    match: str | int | None
    usage: Usage
    timing: Timing
    logprobs: tuple[TokenLogprobs, ...] = ()


class Collector:
    """A listener that keeps the events, and hands out the result once the End is there."""

    def __init__(self) -> None:
        self.admission: Admission | None = None
        self._deltas: list[Delta] = []
        self._end: End | None = None
        self._ended = threading.Event()

    def __call__(self, event: Event) -> None:
        """Take one event; called on the engine's thread."""
        if isinstance(event, Delta):
            self._deltas.append(event)
        elif isinstance(event, Admission):
            self.admission = event
        else:
            self._end = event
            self._ended.set()

    @property
    def is_ended(self) -> bool:
        """Whether the End has come, so that `result` does not wait."""
        return self._ended.is_set()

    def result(self) -> Completion:
        """Wait for the End; raises EngineFailedError when it tells of an error."""
        self._ended.wait()
        end = self._end
        assert end is not None
        if end.reason is FinishReason.ERROR:
            raise EngineFailedError(end.error)
        return Completion(
            token_ids=tuple(token for delta in self._deltas for token in delta.token_ids),
            text="".join(delta.text for delta in self._deltas),
            finish_reason=end.reason,
            match=end.match,
            usage=end.usage,
            timing=end.timing,
            logprobs=tuple(entry for delta in self._deltas for entry in delta.logprobs),
        )
