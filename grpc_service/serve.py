"""The blocking entry: serve an engine until a signal says stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgellama.grpc_service.server import Server

if TYPE_CHECKING:
    from edgellama.runtime.engine import Engine

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_log = logging.getLogger(__name__)


def _announce(address: str) -> None:
    print(f"listening on {address}", flush=True)


def serve(
    engine: Engine,
    *,
    host: str = "127.0.0.1",
    port: int = 50051,
    grace_seconds: float = 30.0,
    ready: Callable[[str], None] = _announce,
) -> bool:
    """Serve until SIGTERM or SIGINT, then drain; returns whether all calls were completed.

    The first signal lets calls in flight finish for `grace_seconds`, the second stops at once.
    `ready` gets `HOST:PORT` once clients can connect; it prints one line by default. Main thread
    only. Raises CannotListenError. The engine is the caller's to close.
    """
    return asyncio.run(_serve(engine, host, port, grace_seconds, ready))


async def _serve(
    engine: Engine, host: str, port: int, grace_seconds: float, ready: Callable[[str], None]
) -> bool:
    loop = asyncio.get_running_loop()
    stop, now = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (now if stop.is_set() else stop).set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        async with Server(engine, host=host, port=port) as server:
            _log.info("listening on %s", server.address)
            ready(server.address)
            await stop.wait()
            _log.info("draining: %d calls in flight, grace %gs", server.in_flight, grace_seconds)
            return await server.drain(grace_seconds, now)
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
