"""An event loop that wakes on time."""

from __future__ import annotations

import asyncio
import selectors
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


def run_precisely(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` as asyncio.run does, on a loop whose sleeps end within microseconds.

    The loop that Linux gets by default rounds every sleep up to whole milliseconds (epoll), which
    would be late sends of half a millisecond on average. Ctrl-C cancels `work`, and raises
    KeyboardInterrupt once it has cleaned up; a second one does not wait. Main thread only.
    """
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    asyncio.set_event_loop(loop)
    try:
        with _interrupts_cancel(loop, task := loop.create_task(work)):
            return loop.run_until_complete(task)
    finally:
        try:
            left = asyncio.all_tasks(loop)
            for one in left:
                one.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


@contextmanager
def _interrupts_cancel(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> Iterator[None]:
    """Have SIGINT cancel the task: raised within it, it would end a callback and not the work."""
    interrupted = False

    def cancel(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        loop.call_soon_threadsafe(task.cancel)

    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    except asyncio.CancelledError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)
