"""A served engine and clients of both kinds."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from reciting_model import CAPACITY, SLOTS, VOCAB, RecitingBackend, make_codec

from edgellama.grpc_service.aio_client import AsyncClient
from edgellama.grpc_service.server import Server
from edgellama.profiles.profile import Limits
from edgellama.runtime.engine import Engine

sys.path.insert(0, str(Path(__file__).parent))  # serving_engine is also run by a subprocess
from serving_engine import MANIFEST, EchoEngine


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


@pytest.fixture
def reciting() -> RecitingBackend:
    """The model of `tool_server`."""
    return RecitingBackend()


@pytest_asyncio.fixture
async def tool_server(reciting: RecitingBackend, tool_template: str) -> AsyncIterator[Server]:
    """The real engine, whose chat template knows tools; only the model recites."""
    limits = Limits(slots=SLOTS, capacity=CAPACITY, prefill_chunk=512, max_queue=16)
    manifest = replace(MANIFEST, model=replace(MANIFEST.model, vocab_size=VOCAB))
    with Engine(reciting, make_codec(tool_template), limits, manifest) as engine:
        async with Server(engine, port=0) as server:
            yield server
