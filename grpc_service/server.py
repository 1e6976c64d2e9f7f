"""The wiring: engine to servicers, health, reflection, port, and the orderly end."""

from __future__ import annotations

import asyncio
import logging
import socket
from types import TracebackType
from typing import TYPE_CHECKING

import grpc
from google.protobuf.internal import api_implementation
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from edgellama.grpc_service import control_pb2, generation_pb2
from edgellama.grpc_service.control import ControlServicer
from edgellama.grpc_service.control_pb2_grpc import add_ControlServiceServicer_to_server
from edgellama.grpc_service.gate import Gate
from edgellama.grpc_service.generation_pb2_grpc import add_GenerationServiceServicer_to_server
from edgellama.grpc_service.limits import SERVER_OPTIONS
from edgellama.grpc_service.mailbox import Hub
from edgellama.grpc_service.retry_delay import RetryDelay
from edgellama.grpc_service.servicer import GenerationServicer
from edgellama.grpc_service.text_pool import TextPool
from edgellama.runtime.request import DrainingError

if TYPE_CHECKING:
    from edgellama.runtime.engine import Engine

GENERATION = generation_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name
CONTROL = control_pb2.DESCRIPTOR.services_by_name["ControlService"].full_name

# After the last handler returned: time for its last bytes to leave, and for open health watches.
_FLUSH_SECONDS = 0.5

_log = logging.getLogger(__name__)


class CannotListenError(OSError):
    """The address cannot be bound; the message says why and what to do."""


class Server:
    """Serves one engine on one address; `async with Server(engine, port=0) as server:`.

    The engine stays the caller's: closing the server does not close it. One event loop per process
    may use this, because grpc.aio polls for the whole process.
    """

    def __init__(self, engine: Engine, *, host: str = "127.0.0.1", port: int = 50051) -> None:
        self._engine = engine
        self._host = f"[{host}]" if ":" in host else host
        self._asked_port = port
        self._port = 0
        self._gate = Gate()
        self._health = health.aio.HealthServicer()
        self._texts = TextPool()

    @property
    def address(self) -> str:
        """`HOST:PORT` with the real port, once started."""
        return f"{self._host}:{self._port}"

    @property
    def in_flight(self) -> int:
        """Calls being served."""
        return self._gate.inside

    async def start(self) -> None:
        """Bind and serve; raises CannotListenError."""
        if api_implementation.Type() != "upb":
            _log.warning(
                "protobuf runs its %s implementation, which is several times slower; install the "
                "wheel of this platform",
                api_implementation.Type(),
            )
        self._hub = Hub(asyncio.get_running_loop())
        self._servicer = GenerationServicer(
            self._engine,
            hub=self._hub,
            gate=self._gate,
            texts=self._texts,
            retry=RetryDelay(self._engine.manifest.profile.limits.slots),
        )
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        control = ControlServicer(self._engine)
        # The generated functions have no types.
        add_GenerationServiceServicer_to_server(  # type: ignore[no-untyped-call]
            self._servicer, self._server
        )
        add_ControlServiceServicer_to_server(  # type: ignore[no-untyped-call]
            control, self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (GENERATION, CONTROL, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self._port = self._bind()
        await self._server.start()
        for name in ("", GENERATION, CONTROL):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._watch = asyncio.ensure_future(self._watch_engine())

    def _bind(self) -> int:
        address = f"{self._host}:{self._asked_port}"
        try:
            return int(self._server.add_insecure_port(address))
        except RuntimeError as error:
            raise CannotListenError(
                f"cannot listen on {address}: {_why_not(self._host, self._asked_port)}; stop the "
                "other process, or choose another address or port (0 takes any free port)"
            ) from error

    async def _watch_engine(self) -> None:
        await self._servicer.engine_failed.wait()
        _log.error("the engine failed and serves no further request; restart the server")
        for name in ("", GENERATION):
            await self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)

    async def drain(self, grace_seconds: float, now: asyncio.Event | None = None) -> bool:
        """Finish what runs and stop; returns whether every call in flight was completed.

        Health turns NOT_SERVING, new calls are refused (DRAINING), and calls that still run after
        `grace_seconds`, or when `now` is set, end with DRAINING.
        """
        await self._health.enter_graceful_shutdown()
        self._gate.close()
        waits: list[asyncio.Future[object]] = [asyncio.ensure_future(self._gate.wait_empty())]
        if now is not None:
            waits.append(asyncio.ensure_future(now.wait()))
        await asyncio.wait(waits, timeout=grace_seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        completed = self._gate.inside == 0
        if not completed:
            _log.warning("stopping with %d calls in flight", self._gate.inside)
        await self.stop()
        return completed

    async def stop(self) -> None:
        """Stop now; calls in flight end with DRAINING. Again does nothing."""
        await self._health.enter_graceful_shutdown()
        self._gate.close()
        self._servicer.stop_open(
            DrainingError("the server stopped before the answer was complete; send it again")
        )
        await self._server.stop(_FLUSH_SECONDS)
        self._watch.cancel()
        self._hub.close()
        self._texts.close()

    async def __aenter__(self) -> Server:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()


def _why_not(host: str, port: int) -> str:
    """Ask the operating system, since grpc keeps its answer to itself."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return "grpc could not bind it"
