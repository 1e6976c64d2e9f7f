"""Ctrl-C as a question that native code can be asked to heed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType, TracebackType
from typing import TypeVar

_Result = TypeVar("_Result")


class Interrupt:
    """While it is entered, SIGINT sets a flag; the handler of before comes back afterwards.

    Only the main thread may set handlers, and an ignored SIGINT stays ignored.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._previous: Callable[[int, FrameType | None], object] | int | None = None

    def __enter__(self) -> Interrupt:
        previous = signal.getsignal(signal.SIGINT)
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and previous not in (signal.SIG_IGN, None):
            self._previous = previous
            signal.signal(signal.SIGINT, self._set)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def _set(self, number: int, frame: FrameType | None) -> None:
        self._event.set()

    def requested(self) -> bool:
        """Whether the user wants to stop."""
        return self._event.is_set()


def in_thread(work: Callable[[], _Result]) -> _Result:
    """Run a native call in a thread and wait: Python handles signals in the main thread only, and
    only between its own instructions."""
    with ThreadPoolExecutor(1, "edgellama-build") as pool:
        return pool.submit(work).result()
