"""The door of the service: counts the calls inside and, once closed, lets no new one in."""

from __future__ import annotations

import asyncio
from types import TracebackType

from edgellama.runtime.request import DrainingError


class Gate:
    """`with gate:` around each call; event loop only."""

    def __init__(self) -> None:
        self._inside = 0
        self._closed = False
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def inside(self) -> int:
        """Calls in flight."""
        return self._inside

    def close(self) -> None:
        """Refuse calls from now on."""
        self._closed = True

    async def wait_empty(self) -> None:
        """Return when no call is in flight."""
        await self._empty.wait()

    def __enter__(self) -> None:
        if self._closed:
            raise DrainingError("the server is shutting down; send the request to another one")
        self._inside += 1
        self._empty.clear()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._inside -= 1
        if self._inside == 0:
            self._empty.set()
