"""The server around the service: health, reflection, port, and the orderly end."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from serving_engine import until

from edgellama.grpc_service.aio_client import AsyncClient
from edgellama.grpc_service.client_errors import Draining, ServerError, Unavailable
from edgellama.grpc_service.server import CONTROL, GENERATION, CannotListenError, Server
from edgellama.runtime.request import EngineFailedError

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def read(stream) -> str:
    return "".join([delta.text async for delta in stream])


async def check(stub, service: str) -> int:
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


async def test_health_check_and_watch_follow_the_drain(engine, server, client):
    engine.step_seconds = 0.005
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", GENERATION, CONTROL):
            assert await check(stub, service) == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await check(stub, "nobody")
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=GENERATION))
        assert (await watch.read()).status == SERVING

        running = asyncio.ensure_future(read(client.stream("ab", max_new_tokens=200)))
        await until(lambda: engine.active)
        draining = asyncio.ensure_future(server.drain(10))
        assert (await watch.read()).status == NOT_SERVING
        assert await check(stub, "") == NOT_SERVING
        with pytest.raises(Draining):
            await client.generate("a")
        with pytest.raises(Draining):
            await client.tokenize("a")
        assert (await client.model_info()).vocab_size == 258
        assert await running == "ab" * 100
        assert await draining is True  # though the watch is still open


async def test_what_outlives_the_grace_is_told(engine, server, client):
    stream = client.stream("ab", max_new_tokens=500)
    whole = asyncio.ensure_future(client.generate("ab", max_new_tokens=500))
    reading = asyncio.ensure_future(read(stream))
    await until(lambda: engine.active == 2)
    engine.step_seconds = 0.1
    assert await server.drain(0.1) is False
    for call in (reading, whole):
        with pytest.raises(Draining):
            await call
    assert stream.text.startswith("a")
    assert len(engine.cancelled) == 2


async def test_failed_engine_turns_health(engine, server, client):
    engine.refusal = EngineFailedError("gone")
    with pytest.raises(ServerError):
        await client.generate("a")
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        while (await asyncio.wait_for(watch.read(), 2)).status != NOT_SERVING:
            pass
        assert await check(stub, GENERATION) == NOT_SERVING
    with pytest.raises(Unavailable, match="NOT_SERVING"):
        await client.wait_ready(0.2)


async def test_reflection_lists_the_services(server):
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = {s.name for s in (await call.read()).list_services_response.service}
        assert {GENERATION, CONTROL, "grpc.health.v1.Health"} <= listed
        await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=GENERATION))
        answer = await call.read()
        assert answer.file_descriptor_response.file_descriptor_proto
        await call.done_writing()


async def test_port_in_use_is_refused_by_name(engine, server):
    port = int(server.address.rsplit(":", 1)[1])
    with pytest.raises(CannotListenError) as caught:
        await Server(engine, port=port).start()
    assert server.address in str(caught.value)
    assert "in use" in str(caught.value)


async def test_unknown_host_is_refused_by_name(engine):
    with pytest.raises(CannotListenError, match=r"192\.0\.2\.1:0"):
        await Server(engine, host="192.0.2.1", port=0).start()


async def test_ipv6_address(engine):
    try:
        server = Server(engine, host="::1", port=0)
        await server.start()
    except CannotListenError as error:
        pytest.skip(str(error))
    assert server.address.startswith("[::1]:")
    async with AsyncClient(server.address) as client:
        assert (await client.generate("a", max_new_tokens=1)).text == "a"
    await server.stop()


async def start_process(*arguments: str) -> tuple[asyncio.subprocess.Process, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).parent / "serve_echo.py"),
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
    assert line.startswith("listening on 127.0.0.1:")
    return process, line.split()[-1]


async def test_sigterm_lets_a_stream_finish_and_exits_with_0():
    process, address = await start_process("--grace", "20")
    async with AsyncClient(address) as client:
        stream = client.stream("ab", max_new_tokens=200)
        iterator = aiter(stream)
        await anext(iterator)
        process.send_signal(signal.SIGTERM)
        async for _ in iterator:
            pass
    assert stream.text == "ab" * 100
    assert await asyncio.wait_for(process.wait(), 10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_second_signal_stops_now(number):
    process, address = await start_process("--grace", "60", "--step", "0.05")
    async with AsyncClient(address) as client:
        stream = client.stream("ab", max_new_tokens=500)
        iterator = aiter(stream)
        await anext(iterator)
        process.send_signal(number)
        await anext(iterator)
        process.send_signal(number)
        with pytest.raises(Draining):
            async for _ in iterator:
                pass
    assert await asyncio.wait_for(process.wait(), 10) == 1  # serve() returned False
