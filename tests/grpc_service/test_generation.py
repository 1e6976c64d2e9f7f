"""The answers: unary and streamed, from text, ids and chats, with both clients."""

from __future__ import annotations

import asyncio

import pytest
from serving_engine import until

from edgellama.grpc_service.client import Client
from edgellama.grpc_service.client_errors import Cancelled
from edgellama.runtime.chat import ChatMessage
from edgellama.runtime.event import FinishReason
from edgellama.runtime.guide import Guide
from edgellama.runtime.request import Sampling


async def test_unary_equals_joined_stream(client):
    whole = await client.generate("hello", max_new_tokens=12, seed=5)
    stream = client.stream("hello", max_new_tokens=12, seed=5)
    deltas = [delta async for delta in stream]
    assert whole.text == "hellohellohe"
    assert "".join(delta.text for delta in deltas) == whole.text == stream.text
    assert stream.token_ids == whole.token_ids == tuple(b"hellohellohe")
    assert stream.finish_reason is whole.finish_reason is FinishReason.MAX_TOKENS
    assert stream.usage == whole.usage
    assert whole.usage.prompt_tokens == 6 and whole.usage.cached_prompt_tokens == 3
    assert stream.completion().seed == whole.seed == 5
    assert whole.max_new_tokens == 12
    assert whole.timing.total > 0


async def test_ids_in_are_fed_as_they_are(client, engine):
    done = await client.generate([1, 2, 3], max_new_tokens=4)
    assert engine.requests[-1].prompt_ids == (1, 2, 3)
    assert done.token_ids == (1, 2, 3, 1)


async def test_chat_is_rendered_with_and_without_the_assistant_header(client, engine):
    chat = [ChatMessage("system", "s"), ChatMessage("user", "u")]
    await client.generate(chat, max_new_tokens=1)
    assert bytes(engine.requests[-1].prompt_ids[1:]) == b"<system>s<user>u<assistant>"
    await client.generate(chat, max_new_tokens=1, add_generation_prompt=False)
    assert bytes(engine.requests[-1].prompt_ids[1:]) == b"<system>s<user>u"


async def test_special_tokens_are_added_unless_refused(client, engine):
    await client.generate("a", max_new_tokens=1)
    assert engine.requests[-1].prompt_ids == (256, 97)
    await client.generate("a", max_new_tokens=1, add_special_tokens=False)
    assert engine.requests[-1].prompt_ids == (97,)


async def test_absent_fields_take_the_models_defaults_and_zero_is_zero(client, engine):
    await client.generate("a", max_new_tokens=1)
    assert engine.requests[-1].sampling == Sampling(temperature=0.6, top_p=0.9)
    await client.generate("a", max_new_tokens=1, temperature=0.0, seed=0, top_p=0.7)
    assert engine.requests[-1].sampling == Sampling(temperature=0.0, top_p=0.7, seed=0)


async def test_one_output_unless_asked_for_more(client, engine):
    done = await client.generate("abc", max_new_tokens=1)
    assert engine.requests[-1].n == 1
    assert [output.text for output in done.outputs] == [done.text]


async def test_every_option_reaches_the_engine(client, engine):
    await client.generate(
        "a", temperature=0.1, top_k=5, top_p=0.3, min_p=0.05, repetition_penalty=1.1,
        presence_penalty=-0.5, frequency_penalty=0.25, seed=2**64 - 1, logit_bias={7: -2.5},
        bad_words=["no", "never"], bad_token_ids=[[1, 2], [3]],
        max_new_tokens=9, min_new_tokens=2, stop=["a", "zz"], stop_token_ids=[4], keep_match=True,
        ignore_eos=True, special_tokens=True, top_logprobs=2, request_id="mine-1",
        cache_salt="salt", priority=-3, tenant="tenant",
    )  # fmt: skip
    request = engine.requests[-1]
    assert request.sampling == Sampling(
        0.1, 5, 0.3, 0.05, 1.1, -0.5, 0.25, {7: -2.5}, 2**64 - 1, ("no", "never"), ((1, 2), (3,))
    )
    stop = request.stop
    assert (stop.max_new_tokens, stop.min_new_tokens) == (9, 2)
    assert (stop.strings, stop.token_ids) == (("a", "zz"), (4,))
    assert stop.keep_match and stop.ignore_eos
    assert (request.top_logprobs, request.request_id) == (2, "mine-1")
    assert (request.cache_salt, request.priority, request.tenant) == ("salt", -3, "tenant")
    assert request.skip_special_tokens is False


@pytest.mark.parametrize(
    ("options", "guide"),
    [
        ({"json_schema": '{"type": "null"}'}, Guide(json_schema='{"type": "null"}')),
        ({"json_schema": {"type": "null"}}, Guide(json_schema='{"type": "null"}')),
        ({"regex": "a+"}, Guide(regex="a+")),
        ({"grammar": "start: /a/"}, Guide(grammar="start: /a/")),
        ({"choices": ["a", "b"]}, Guide(choices=("a", "b"))),
    ],
)
async def test_every_guide_reaches_the_engine(client, engine, options, guide):
    await client.generate("a", max_new_tokens=1, **options)
    assert engine.requests[-1].guide == guide


async def test_stop_match_logprobs_and_id_come_back(client):
    done = await client.generate("abc", stop=["c"], top_logprobs=2, request_id="r-7")
    assert (done.finish_reason, done.match) == (FinishReason.STOP_STRING, "c")
    assert done.request_id == "r-7"
    assert [entry.chosen for entry in done.logprobs] == [-0.5] * 3
    assert done.logprobs[0].top == ((0, -1.0), (1, -2.0))
    stream = client.stream("abc", stop=["c"], top_logprobs=2)
    assert [d async for d in stream]
    assert (stream.logprobs, stream.end.match) == (done.logprobs, "c")


async def test_no_logprobs_and_no_text_unless_wanted(client):
    done = await client.generate("abc", max_new_tokens=3, text=False)
    assert (done.text, done.logprobs, done.token_ids) == ("", (), tuple(b"abc"))
    stream = client.stream("abc", max_new_tokens=3, text=False)
    assert [delta.text async for delta in stream if delta.text] == []


async def test_sixteen_streams_do_not_mix(client):
    async def run(index: int) -> None:
        prompt = f"<{index:02}>"
        stream = client.stream(prompt, max_new_tokens=40 + index)
        offset = 0
        async for delta in stream:
            assert delta.token_offset == offset
            assert len(delta.token_ids) == len(delta.text)
            offset += len(delta.token_ids)
        assert stream.text == (prompt * 20)[: 40 + index]

    await asyncio.gather(*(run(index) for index in range(16)))


async def test_unread_deltas_are_merged(engine, client):
    engine.step_seconds = 0.0
    stream = client.stream("abcdefgh", max_new_tokens=400)
    deltas = [delta async for delta in stream]
    assert sum(len(delta.token_ids) for delta in deltas) == 400
    assert len(deltas) < 400


async def test_unread_stream_holds_up_nobody(engine, client):
    unread = client.stream("abcd", max_new_tokens=500)
    first = aiter(unread)
    await anext(first)
    for _ in range(5):
        assert (await client.generate("xy", max_new_tokens=4)).text == "xyxy"
    await until(lambda: not engine.active)  # it ended, and its slot is free
    async for _ in first:
        pass
    assert unread.text == "abcd" * 125


async def test_tokenize_and_detokenize(client):
    assert await client.tokenize("hi") == (256, 104, 105)
    assert await client.tokenize("hi", add_special_tokens=False) == (104, 105)
    chat = [ChatMessage("user", "u")]
    assert bytes((await client.tokenize(chat))[1:]) == b"<user>u<assistant>"
    assert bytes((await client.tokenize(chat, add_generation_prompt=False))[1:]) == b"<user>u"
    assert await client.detokenize([256, 104, 105]) == "hi"
    assert await client.detokenize([256, 104], special_tokens=True) == "<bos>h"


async def test_model_info_tells_defaults_and_limits(client):
    info = await client.model_info()
    assert (info.model, info.profile, info.precision.weights) == ("tiny", "cpu-tiny", "fp32")
    assert (info.vocab_size, list(info.stop_ids), info.bos_id) == (258, [257], 256)
    assert (info.default_sampling.temperature, info.default_sampling.top_p) == (0.6, 0.9)
    assert info.default_sampling.HasField("top_k") and not info.default_sampling.HasField("seed")
    limits = info.limits
    assert (limits.capacity, limits.slots, limits.max_queue) == (512, 16, 64)
    assert (limits.max_stop_strings, limits.max_top_logprobs) == (16, 20)


async def test_synchronous_client(server, engine):
    def use() -> None:
        with Client(server.address) as client:
            client.wait_ready(5)
            assert client.generate("ab", max_new_tokens=4).text == "abab"
            with client.stream("ab", max_new_tokens=4) as stream:
                assert "".join(delta.text for delta in stream) == "abab"
            assert stream.completion().usage.output_tokens == 4
            assert client.tokenize("h") == (256, 104)
            assert client.detokenize([104]) == "h"
            assert client.model_info().vocab_size == 258
            for delta in client.stream("ab"):  # left early: cancelled without a `with`
                assert delta.token_offset == 0
                break

    await asyncio.to_thread(use)
    await until(lambda: not engine.active)
    assert len(engine.cancelled) == 1


async def test_a_closed_stream_says_so(client):
    stream = client.stream("abc")
    with pytest.raises(Cancelled):
        async for _ in stream:
            stream.close()
    with pytest.raises(RuntimeError, match="not complete"):
        stream.completion()
