"""Tokenising, templating and detokenising beside the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from edgellama.runtime.request import QueueFullError

T = TypeVar("T")


class TextPool:
    """A few threads and a bounded number of jobs for them."""

    def __init__(self, *, threads: int = 2, limit: int = 256) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="edgellama-text")
        self._limit = limit
        self._pending = 0
        self._lock = threading.Lock()

    async def run(self, job: Callable[[], T]) -> T:
        """Return `job()`, run on a thread; raises QueueFullError when too many jobs wait.

        A caller that is cancelled takes its job along unless a thread has begun it.
        """
        with self._lock:
            if self._pending >= self._limit:
                raise QueueFullError(
                    f"{self._pending} texts wait for the tokenizer, the limit is {self._limit}; "
                    "try again later"
                )
            self._pending += 1
        future = self._executor.submit(job)
        future.add_done_callback(self._finished)  # not a `finally`: a begun job holds its thread
        return await asyncio.wrap_future(future)

    def _finished(self, _: Future[T]) -> None:
        with self._lock:
            self._pending -= 1

    def close(self) -> None:
        """Begin no further job."""
        self._executor.shutdown(wait=False, cancel_futures=True)
