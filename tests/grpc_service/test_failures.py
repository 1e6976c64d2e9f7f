"""What goes wrong: each failure has its status, its details and no effect on the neighbours."""

from __future__ import annotations

import asyncio
import logging
import time

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from serving_engine import until

from edgellama.grpc_service import generation_pb2 as pb
from edgellama.grpc_service.client_errors import (
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    MessageTooLarge,
    Overloaded,
    ServerError,
    Unavailable,
)
from edgellama.grpc_service.errors import FAILURES
from edgellama.grpc_service.generation_pb2_grpc import GenerationServiceStub
from edgellama.runtime.chat import ChatMessage
from edgellama.runtime.request import (
    DrainingError,
    EngineFailedError,
    InvalidRequestError,
    QueueFullError,
)


async def raw_error(server, spec: pb.GenerationSpec) -> grpc.aio.AioRpcError:
    async with grpc.aio.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await GenerationServiceStub(channel).Generate(pb.GenerateRequest(spec=spec))
    return caught.value


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"top_p": 1.5}, "sampling.top_p"),
        ({"temperature": float("nan")}, "sampling.temperature"),
        ({"max_new_tokens": 0}, "stop.max_new_tokens"),
        ({"max_new_tokens": 2, "min_new_tokens": 3}, "stop.min_new_tokens"),
        ({"stop": ["a"] * 17}, "stop.strings"),
        ({"stop": [""]}, "stop.strings"),
        ({"top_logprobs": 21}, "want.top_logprobs"),
        ({"prompt_logprobs": 21}, "want.prompt_logprobs"),
        ({"request_id": "a b"}, "request_id"),
        ({"request_id": "a" * 129}, "request_id"),
        ({"cache_salt": "a" * 129}, "cache_salt"),
        ({"tenant": "a" * 129}, "tenant"),
        ({"priority": 101}, "priority"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"priority": 2**31}, "priority"),  # refused on this side
        ({"top_k": -1}, "sampling.top_k"),  # refused on this side: the wire cannot carry it
        ({"seed": 2**64}, "sampling.seed"),
        ({"stop": "not a list"}, "stop.strings"),
        ({"logit_bias": {-1: 0.0}}, "sampling.logit_bias"),
        ({"add_generation_prompt": True}, "chat.add_generation_prompt"),
        ({"bad_words": [""]}, "sampling.bad_words"),
        ({"bad_words": "not a list"}, "sampling.bad_words"),
        ({"bad_token_ids": [[]]}, "sampling.bad_token_ids"),
        ({"bad_token_ids": [[-1]]}, "sampling.bad_token_ids"),  # refused on this side
        ({"bad_token_ids": [1, 2]}, "sampling.bad_token_ids"),  # refused on this side
        ({"choices": []}, "guide.choices"),
        ({"regex": ""}, "guide.regex"),
        ({"regex": "a", "ignore_eos": True}, "stop.ignore_eos"),
        ({"regex": "a", "grammar": "a"}, "guide"),  # refused on this side
    ],
)
async def test_invalid_option_names_its_field(client, options, field):
    with pytest.raises(InvalidRequest) as caught:
        await client.generate("a", **options)
    assert caught.value.field == field
    assert caught.value.reason == "INVALID_REQUEST"
    with pytest.raises(InvalidRequest):
        async for _ in client.stream("a", **options):
            pass


@pytest.mark.parametrize(
    ("prompt", "options", "field"),
    [
        ([], {}, "input"),
        ("\ud800", {}, "text"),
        ([-1], {}, "tokens.ids"),
        ([1] * 512, {}, "tokens.ids"),
        ("x" * 600, {}, "text"),
        ([1], {"add_special_tokens": True}, "add_special_tokens"),
        ([ChatMessage("user", "u")], {"add_special_tokens": False}, "add_special_tokens"),
    ],
)
async def test_invalid_prompt_names_its_field(client, prompt, options, field):
    with pytest.raises(InvalidRequest) as caught:
        await client.generate(prompt, **options)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (pb.GenerationSpec(), "input"),
        (pb.GenerationSpec(tokens=pb.TokenIds()), "tokens.ids"),
        (pb.GenerationSpec(chat=pb.Chat()), "chat.messages"),
        (
            pb.GenerationSpec(chat=pb.Chat(messages=[pb.ChatMessage(content="x")])),
            "chat.messages[0].role",
        ),
    ],
)
async def test_incomplete_message_is_refused(server, spec, field):
    error = await raw_error(server, spec)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = rpc_status.from_call(error).details
    bad = error_details_pb2.BadRequest()
    assert [d.Unpack(bad) for d in details if d.Is(bad.DESCRIPTOR)] == [True]
    assert bad.field_violations[0].field == field


async def test_unknown_option_and_role_of_python_are_type_errors(client):
    with pytest.raises(TypeError, match="temprature"):
        await client.generate("a", temprature=1.0)
    with pytest.raises(TypeError, match="ChatMessage"):
        await client.generate([ChatMessage("user", "u"), "x"])


async def test_refusals_leave_other_streams_alone(client):
    stream = client.stream("abcd", max_new_tokens=300)
    reading = asyncio.ensure_future(_read(stream))
    for _ in range(20):
        with pytest.raises(InvalidRequest):
            await client.generate("a", top_p=7.0)
    assert await reading == ("abcd" * 75)


async def _read(stream) -> str:
    return "".join([delta.text async for delta in stream])


async def test_queue_full_tells_when_to_come_back(engine, server, client):
    engine.max_requests, engine.step_seconds = 1, 0.005
    running = client.stream("ab")
    first = aiter(running)  # held: a lost iterator cancels the stream
    await anext(first)
    with pytest.raises(Overloaded) as caught:
        await client.generate("a")
    assert caught.value.reason == "QUEUE_FULL"
    assert caught.value.retry_after == pytest.approx(1.0)
    error = await raw_error(server, pb.GenerationSpec(text="a"))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    running.close()


@pytest.mark.parametrize(
    ("raised", "kind", "reason"),
    [
        (InvalidRequestError("prompt", "bad"), InvalidRequest, "INVALID_REQUEST"),
        (QueueFullError("full"), Overloaded, "QUEUE_FULL"),
        (DrainingError("bye"), Draining, "DRAINING"),
        (EngineFailedError("secret"), ServerError, "ENGINE_FAILED"),
        (ValueError("secret"), ServerError, "INTERNAL"),
    ],
)
async def test_what_the_engine_raises(engine, server, client, raised, kind, reason):
    engine.refusal = raised
    with pytest.raises(kind) as caught:
        await client.generate("a", request_id="q-1")
    assert caught.value.reason == reason
    assert caught.value.request_id == "q-1"
    assert "secret" not in str(caught.value)
    row = next(row for row in FAILURES if row.reason == reason)
    error = await raw_error(server, pb.GenerationSpec(text="a"))
    assert error.code() is row.code
    info = error_details_pb2.ErrorInfo()
    assert any(d.Unpack(info) for d in rpc_status.from_call(error).details)
    assert info.metadata["retryable"] == str(row.retryable).lower()


async def test_unexpected_exception_is_logged_but_not_sent(server, caplog):
    error = await raw_error(server, pb.GenerationSpec(text="tokenizer-bug", request_id="q-2"))
    assert error.code() is grpc.StatusCode.INTERNAL
    sent = error.details() + str(error.trailing_metadata())
    assert "secret" not in sent and "KeyError" not in sent
    logged = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "q-2" in logged[0].getMessage()
    assert "secret detail" in str(logged[0].exc_info[1])


async def test_engine_error_mid_stream_is_the_status_with_the_part_so_far(engine, client):
    engine.failing_at = 3
    with pytest.raises(ServerError) as caught:
        await _read(client.stream("abcdef"))
    assert caught.value.reason == "ENGINE_FAILED"
    assert caught.value.partial.text == "abc"
    assert "secret" not in str(caught.value)
    with pytest.raises(ServerError):
        await client.generate("abcdef")


async def test_client_cancel_frees_the_engine_at_once(engine, client):
    async with client.stream("ab") as stream:
        async for _ in stream:
            break
        left = time.monotonic()
    await until(lambda: engine.cancelled)
    assert engine.cancelled[0][1] - left < 0.5
    assert engine.active == 0


async def test_deadline_frees_the_engine_and_keeps_the_part(engine, client):
    engine.step_seconds = 0.005
    with pytest.raises(DeadlineExceeded) as caught:
        await _read(client.stream("ab", timeout=0.4))
    assert caught.value.partial.text.startswith("abab")
    with pytest.raises(DeadlineExceeded):
        await client.generate("ab", timeout=0.1)
    await until(lambda: len(engine.cancelled) == 2)


async def test_dropped_connection_frees_the_engine(engine, server):
    channel = grpc.aio.insecure_channel(server.address)
    call = GenerationServiceStub(channel).StreamGenerate(
        pb.StreamGenerateRequest(spec=pb.GenerationSpec(text="ab"))
    )
    await call.read()
    assert engine.active == 1
    await channel.close()
    await until(lambda: engine.active == 0)


async def test_a_lost_iterator_cancels_the_stream(engine, client):
    async for _ in client.stream("ab"):
        break
    await until(lambda: engine.cancelled)


async def test_ended_request_is_not_cancelled(engine, client):
    await client.generate("ab", max_new_tokens=3)
    await _read(client.stream("ab", max_new_tokens=3))
    await asyncio.sleep(0.05)
    assert engine.cancelled == []


async def test_reused_id_after_the_end(client):
    for _ in range(20):
        assert (await client.generate("ab", max_new_tokens=2, request_id="same")).text == "ab"


async def test_message_over_the_limit(client):
    with pytest.raises(MessageTooLarge):
        await client.generate("x" * (5 * 1024 * 1024))


async def test_detokenize_refuses_foreign_ids(client):
    with pytest.raises(InvalidRequest) as caught:
        await client.detokenize([258])
    assert caught.value.field == "ids"


async def test_no_server():
    from edgellama.grpc_service.aio_client import AsyncClient

    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(Unavailable):
            await client.generate("a", timeout=5)
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 is not ready after"):
            await client.wait_ready(0.2)


async def test_bytes_that_are_no_message(server, client):
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/edgellama.v1.GenerationService/Generate")
        for body in (b"\xff" * 40, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x04\x12\x02\xff\xfe"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(body)
            # grpc.aio decodes before any code of ours runs, and reports so.
            assert caught.value.code() is grpc.StatusCode.UNKNOWN
            assert "/" not in caught.value.details()  # no path, no trace
    assert (await client.generate("a", max_new_tokens=1)).text == "a"
