"""A served engine and clients of both kinds."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from edgellama.grpc_service.aio_client import AsyncClient
from edgellama.grpc_service.server import Server

sys.path.insert(0, str(Path(__file__).parent))  # serving_engine is also run by a subprocess
from serving_engine import EchoEngine


@pytest.fixture
def engine() -> Iterator[EchoEngine]:
    engine = EchoEngine()
    yield engine
    engine.close()


@pytest_asyncio.fixture
async def server(engine: EchoEngine) -> AsyncIterator[Server]:
    async with Server(engine, port=0) as server:
        yield server


@pytest_asyncio.fixture
async def client(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address) as client:
        yield client
