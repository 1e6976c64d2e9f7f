"""Tools over a real server and the real engine; only the model recites."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from reciting_model import END, END_OF_MESSAGE, TAG, RecitingBackend

from edgellama.grpc_service.aio_client import AsyncClient
from edgellama.grpc_service.client_errors import InvalidRequest
from edgellama.grpc_service.server import Server
from edgellama.runtime.chat import ChatMessage
from edgellama.runtime.event import FinishReason
from edgellama.runtime.tools import MAX_TOOLS, Tool, ToolCall

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Zürich", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = Tool("get_weather", "The weather of a city.", json.dumps(CITY))
ASKED = [ChatMessage("user", "How is Rome?")]
OPTIONS: dict[str, Any] = {"tools": [WEATHER], "max_new_tokens": 200}
CALL = '{"name": "get_weather", "parameters": {"city": "Rome"}}'


@pytest_asyncio.fixture
async def client(tool_server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(tool_server.address) as client:
        yield client


async def test_a_conversation_with_a_tool(client: AsyncClient, reciting: RecitingBackend) -> None:
    reciting.learn(TAG, CALL, END_OF_MESSAGE)
    first = await client.generate(ASKED, **OPTIONS)
    assert (first.text, first.finish_reason, first.match) == (
        "",
        FinishReason.TOOL_CALLS,
        END_OF_MESSAGE,
    )
    [call] = first.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Rome"})
    turns = [
        *ASKED,
        ChatMessage("assistant", first.text, first.tool_calls),
        ChatMessage("tool", '{"celsius": 25}', tool_call_id=call.id),
    ]
    reciting.learn("25 degrees.", END)
    second = await client.generate(turns, **OPTIONS)
    assert (second.text, second.tool_calls) == ("25 degrees.", ())
    assert second.finish_reason is FinishReason.EOS
    assert second.usage.prompt_tokens > first.usage.prompt_tokens


async def test_a_stream_has_text_at_once_and_calls_whole(
    client: AsyncClient, reciting: RecitingBackend
) -> None:
    reciting.learn(
        "Look: ", "<function=get_weather>", '{"city": "Rome"}', "</function>", TAG, CALL, END
    )
    async with client.stream(ASKED, **OPTIONS) as stream:
        deltas = [delta async for delta in stream]
    assert stream.text == "".join(delta.text for delta in deltas) == "Look: "
    assert [call.name for call in stream.tool_calls] == ["get_weather"] * 2
    told = 0
    for delta in deltas:
        assert delta.tool_call_offset == told
        told += len(delta.tool_calls)
    assert stream.completion().tool_calls == stream.tool_calls
    assert len({call.id for call in stream.tool_calls}) == 2
    assert stream.finish_reason is FinishReason.TOOL_CALLS
    unary = await client.generate(ASKED, **OPTIONS)
    assert (unary.text, unary.token_ids) == (stream.text, stream.token_ids)
    assert [call.arguments for call in unary.tool_calls] == [
        call.arguments for call in stream.tool_calls
    ]


async def test_each_output_of_a_prompt_has_calls_of_its_own(
    client: AsyncClient, reciting: RecitingBackend
) -> None:
    other = CALL.replace("Rome", "Zürich")
    reciting.learn("Look: ", f'<function=get_weather>{{"city": "Rome"}}</function>{CALL}', END)
    reciting.learn_also(TAG, other, END_OF_MESSAGE)
    async with client.stream(ASKED, n=2, **OPTIONS) as stream:
        deltas = [delta async for delta in stream]
    unary = await client.generate(ASKED, n=2, **OPTIONS)
    for answer in (stream.completion(), unary):
        assert [
            (
                output.text,
                [json.loads(call.arguments)["city"] for call in output.tool_calls],
                output.finish_reason,
                output.match,
            )
            for output in answer.outputs
        ] == [
            ("Look: ", ["Rome", "Rome"], FinishReason.TOOL_CALLS, END),
            ("", ["Zürich"], FinishReason.TOOL_CALLS, END_OF_MESSAGE),
        ]
        calls = [call for output in answer.outputs for call in output.tool_calls]
        assert len({call.id for call in calls}) == 3
        assert answer.tool_calls == answer.outputs[0].tool_calls
    for index, output in enumerate(stream.completion().outputs):
        told: list[ToolCall] = []
        for delta in deltas:
            if delta.index == index:
                assert delta.tool_call_offset == len(told)
                told += delta.tool_calls
        assert tuple(told) == output.tool_calls
    assert stream.tool_calls == stream.completion().tool_calls


async def test_an_output_without_calls_ends_as_it_would_alone(
    client: AsyncClient, reciting: RecitingBackend
) -> None:
    reciting.learn("Hot.", END)
    reciting.learn_also(CALL, END)
    reciting.learn_also(CALL, "; {" * 200)
    answer = await client.generate(ASKED, n=3, **OPTIONS)
    assert [(len(one.tool_calls), one.finish_reason) for one in answer.outputs] == [
        (0, FinishReason.EOS),
        (1, FinishReason.TOOL_CALLS),
        (1, FinishReason.MAX_TOKENS),
    ]
    assert (answer.text, answer.tool_calls) == ("Hot.", ())
    untold = await client.generate(ASKED, n=3, tool_choice="none", **OPTIONS)
    assert [one.tool_calls for one in untold.outputs] == [(), (), ()]
    assert untold.outputs[1].text == CALL


async def test_every_output_is_made_to_call(client: AsyncClient) -> None:
    cities = set()
    for choice in ("required", "get_weather"):
        options = {**OPTIONS, "tool_choice": choice, "temperature": 1.0}
        answer = await client.generate(ASKED, n=4, seed=1, **options)
        assert len(answer.outputs) == 4
        for output in answer.outputs:
            [call] = output.tool_calls
            assert (call.name, output.text) == ("get_weather", "")
            assert output.finish_reason is FinishReason.TOOL_CALLS
            cities.add(json.loads(call.arguments)["city"])
    assert cities == {"Rome", "Zürich"}, "each draws its own"


@pytest.mark.parametrize("choice", ["required", "get_weather"])
async def test_a_model_that_knows_nothing_is_made_to_call(client: AsyncClient, choice: str) -> None:
    for seed in range(4):
        answer = await client.generate(
            ASKED, **OPTIONS, tool_choice=choice, seed=seed, temperature=1.0
        )
        [call] = answer.tool_calls
        assert call.name == "get_weather" and answer.text == ""
        assert json.loads(call.arguments)["city"] in ("Zürich", "Rome")
        assert answer.finish_reason is FinishReason.TOOL_CALLS


async def test_what_is_about_tools_is_refused_by_its_field(
    client: AsyncClient, reciting: RecitingBackend
) -> None:
    reciting.learn("a", END)
    bad = Tool("get_weather", "", "[]")
    for options, field in (
        ({"tools": [bad]}, "chat.tools[0].parameters"),
        ({"tools": [WEATHER] * 2}, "chat.tools[1].name"),
        ({"tools": [WEATHER], "tool_choice": "other"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": "required", "regex": "a"}, "tool_choice"),
        ({"tools": [WEATHER], "special_tokens": True}, "want.special_tokens"),
        ({"tools_in_user_message": True}, "chat.tools"),
        ({"builtin_tools": ["calculator"]}, "chat.builtin_tools[0]"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            await client.generate(ASKED, **options)  # type: ignore[arg-type]
        assert caught.value.field == field
    with pytest.raises(InvalidRequest) as caught:
        await client.generate([*ASKED, ChatMessage("tool", "x", tool_call_id="none")])
    assert caught.value.field == "chat.messages[1].tool_call_id"


async def test_the_server_says_what_its_template_knows(client: AsyncClient) -> None:
    info = await client.model_info()
    assert list(info.chat_options) == [
        "tools",
        "builtin_tools",
        "tools_in_user_message",
        "date_string",
    ]
    assert info.limits.max_tools == MAX_TOOLS


async def test_the_prompt_with_tools_can_be_counted(
    client: AsyncClient, reciting: RecitingBackend
) -> None:
    reciting.learn("a", END)
    ids = await client.tokenize(ASKED, tools=[WEATHER], date_string="1 May 2026")
    answer = await client.generate(ASKED, tools=[WEATHER], date_string="1 May 2026")
    assert answer.usage.prompt_tokens == len(ids)
    assert "1 May 2026" in await client.detokenize(ids)
