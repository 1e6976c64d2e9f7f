"""The way of events from the engine's thread to a handler on the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from edgellama.runtime.event import Delta, End, Event


class Hub:
    """Wakes mailboxes; one call into the event loop however many have mail.

    The engine hands out the tokens of all streams after each step. Waking the loop costs a system
    call, so it happens once, and the loop then drains every mailbox that got something.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lock = threading.Lock()  # guards the hub and every mailbox of it; held briefly
        self._loop = loop
        self._ready: list[Mailbox] = []
        self._closed = False

    def post(self, mailbox: Mailbox) -> None:
        """Have `mailbox` woken soon; any thread, with the lock held."""
        if self._closed:
            return
        self._ready.append(mailbox)
        if len(self._ready) == 1:
            self._loop.call_soon_threadsafe(self._flush)

    def close(self) -> None:
        """Wake nobody any more; the loop may be closed after this."""
        with self.lock:
            self._closed = True

    def _flush(self) -> None:
        with self.lock:
            ready, self._ready = self._ready, []
        for mailbox in ready:
            mailbox.wake()


class Mailbox:
    """The undelivered events of one request.

    It needs no limit of its own: an output has at most `max_new_tokens` tokens, and a reader that
    falls behind gets all that is waiting of it as one Delta. With `at_end` the reader is woken for
    the last End only.
    """

    def __init__(self, hub: Hub, *, at_end: bool = False) -> None:
        self._hub = hub
        self._at_end = at_end
        self._events: list[Event] = []
        self._posted = False
        self._ended = False
        self._error: Exception | None = None
        self._mail = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether the engine is done with the request."""
        return self._ended

    def put(self, event: Event) -> None:
        """Take one event; called on the engine's thread."""
        with self._hub.lock:
            self._events.append(event)
            self._ended = isinstance(event, End) and not event.outputs_left
            if not self._posted and (self._ended or not self._at_end):
                self._posted = True
                self._hub.post(self)

    def wake(self) -> None:
        """Let the reader look; called on the event loop."""
        self._mail.set()

    def fail(self, error: Exception) -> None:
        """Have the reader's next `take` raise `error`; called on the event loop."""
        self._error = error
        self._mail.set()

    async def take(self) -> list[Event]:
        """Wait for events and return all of them in order, neighbouring Deltas merged."""
        while True:
            await self._mail.wait()
            if self._error is not None:
                raise self._error
            with self._hub.lock:
                events, self._events = self._events, []
                self._posted = False
                self._mail.clear()
            if events:
                return merge_deltas(events)


def merge_deltas(events: Sequence[Event]) -> list[Event]:
    """Join the Deltas of an output between two other events into one; those stay as they are."""
    merged: list[Event] = []
    runs: dict[int, list[Delta]] = {}  # by output
    for event in events:
        if isinstance(event, Delta):
            runs.setdefault(event.index, []).append(event)
            continue
        merged += map(_joined, runs.values())
        runs.clear()
        merged.append(event)
    merged += map(_joined, runs.values())
    return merged


def _joined(run: Sequence[Delta]) -> Delta:
    if len(run) == 1:
        return run[0]
    return Delta(
        token_offset=run[0].token_offset,
        token_ids=tuple(token for delta in run for token in delta.token_ids),
        text="".join(delta.text for delta in run),
        logprobs=tuple(entry for delta in run for entry in delta.logprobs),
        index=run[0].index,
        tool_calls=tuple(call for delta in run for call in delta.tool_calls),
        tool_call_offset=run[0].tool_call_offset,
    )
