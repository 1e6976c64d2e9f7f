"""Calls of tools through the engine: told from the text, or forced by a guide."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from reciting_model import (
    BEGIN,
    CAPACITY,
    END,
    END_OF_MESSAGE,
    SLOTS,
    TAG,
    RecitingBackend,
    make_codec,
)

from edgellama.profiles.profile import Limits
from edgellama.runtime.completion import Collector, Completion
from edgellama.runtime.engine import Engine
from edgellama.runtime.event import Delta, FinishReason
from edgellama.runtime.guide import Guide
from edgellama.runtime.request import InvalidRequestError, Request, Sampling, Stop
from edgellama.runtime.tools import Tool, Toolset

EMPTY = '{"type": "object", "properties": {}, "additionalProperties": false}'
PLAIN = Toolset((Tool("get", "", EMPTY), Tool("get_time", "", EMPTY)))
CODE = Toolset((), ("code_interpreter",))
CALL = '{"name": "get", "parameters": {}}'


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(RecitingBackend(), make_codec(), Limits(SLOTS, CAPACITY, 64, 100)) as engine:
        yield engine


def recite(
    engine: Engine, *answer: str | int, stop: Stop | None = None, **options: Any
) -> tuple[Completion, list[Delta]]:
    """Have the model write texts and tokens."""
    backend = engine._backend
    assert isinstance(backend, RecitingBackend)
    length = backend.learn(*answer)
    options.setdefault("tools", PLAIN)
    stop = stop or Stop(max_new_tokens=length)
    deltas: list[Delta] = []
    collector = Collector()

    def listen(event: Any) -> None:
        if isinstance(event, Delta):
            deltas.append(event)
        collector(event)

    engine.submit(Request((BEGIN, 1), Sampling(temperature=0.0), stop, **options), listen)
    return collector.result(), deltas


def names(answer: Completion) -> list[str]:
    return [call.name for call in answer.tool_calls]


@pytest.mark.parametrize("end", [END, END_OF_MESSAGE])
@pytest.mark.parametrize("tag", [(), (TAG,)])
def test_a_call_is_no_text_and_the_reason(engine: Engine, end: int, tag: tuple[int, ...]) -> None:
    answer, deltas = recite(engine, *tag, CALL, end)
    assert (answer.text, names(answer)) == ("", ["get"])
    assert (answer.finish_reason, answer.match) == (FinishReason.TOOL_CALLS, end)
    [with_call] = [delta for delta in deltas if delta.tool_calls]
    assert with_call is deltas[-2], "as soon as the brace closes, before the end"
    assert answer.usage.output_tokens == len(answer.token_ids) == len(tag) + len(CALL) + 1


def test_several_calls_are_numbered(engine: Engine) -> None:
    answer, deltas = recite(engine, TAG, "[get(), get_time()]", END)
    assert names(answer) == ["get", "get_time"]
    answer, deltas = recite(engine, f"{CALL}; {CALL}", END)
    offsets = [(delta.tool_call_offset, len(delta.tool_calls)) for delta in deltas]
    assert (0, 1) in offsets and (1, 1) in offsets and offsets[-1] == (2, 0)


def test_an_answer_without_calls_is_the_same_as_without_tools(engine: Engine) -> None:
    for parts in (
        ("Hello {you}", END),
        (TAG, "print(1)", END),
        ('{"name": "other", "parameters": {}}', END),
        ("né🙂", TAG, " [get(1)]", END),
    ):
        told, _ = recite(engine, *parts)
        plain, _ = recite(engine, *parts, tools=None)
        assert (told.text, told.token_ids) == (plain.text, plain.token_ids)
        assert told.finish_reason is plain.finish_reason is FinishReason.EOS
        assert told.tool_calls == ()


def test_none_looks_for_no_call(engine: Engine) -> None:
    answer, _ = recite(engine, CALL, END, tool_choice="none")
    assert (answer.text, answer.finish_reason) == (CALL, FinishReason.EOS)


def test_an_answer_that_is_cut_says_so(engine: Engine) -> None:
    answer, _ = recite(engine, CALL, "; {", stop=Stop(max_new_tokens=len(CALL) + 3))
    assert (names(answer), answer.text) == (["get"], "; {")
    assert answer.finish_reason is FinishReason.MAX_TOKENS
    answer, _ = recite(engine, TAG, "print(1)", stop=Stop(max_new_tokens=7), tools=CODE)
    assert (answer.text, answer.finish_reason) == ("print(", FinishReason.MAX_TOKENS)


def test_a_program_runs_to_the_end_of_the_message(engine: Engine) -> None:
    answer, _ = recite(engine, TAG, "print(1)\n", END_OF_MESSAGE, tools=CODE)
    assert answer.text == "" and answer.finish_reason is FinishReason.TOOL_CALLS
    [call] = answer.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("code_interpreter", {"code": "print(1)\n"})


def test_stop_strings_and_a_tag_keep_their_places(engine: Engine) -> None:
    stop = Stop(max_new_tokens=99, strings=("abcd",))
    answer, _ = recite(engine, "xab", TAG, "[get()]", END, stop=stop)
    assert (answer.text, names(answer)) == ("xab", ["get"])
    answer, _ = recite(engine, "xab", TAG, "cd[get()]", END, stop=stop)
    assert (answer.text, answer.finish_reason) == ("x", FinishReason.STOP_STRING)
    stop = Stop(max_new_tokens=99, strings=("}}",), keep_match=True)
    answer, _ = recite(engine, CALL, END, stop=stop)
    assert (names(answer), answer.match) == (["get"], "}}")
    assert answer.finish_reason is FinishReason.TOOL_CALLS
    open_call = '{"name": "get", "parameters": {"a": {}}'
    answer, _ = recite(engine, open_call, END, stop=stop)
    assert (answer.text, answer.finish_reason) == (open_call, FinishReason.STOP_STRING)


DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {}, "additionalProperties": False},
    {
        "type": "object",
        "properties": {"city": {"enum": ["Zürich", 'SF "x"']}, "n": DIGIT},
        "required": ["city", "n"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {"at": {"$ref": "#/$defs/point"}},
        "required": ["at"],
        "additionalProperties": False,
        "$defs": {"point": {"type": "array", "items": DIGIT, "minItems": 2, "maxItems": 2}},
    },
]


@pytest.mark.parametrize("choice", ["required", "tool_0", "tool_1", "tool_2"])
def test_a_forced_answer_is_a_call_of_the_schema(engine: Engine, choice: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    backend = engine._backend
    assert isinstance(backend, RecitingBackend)
    backend.answers.clear()
    toolset = Toolset(
        tuple(Tool(f"tool_{i}", "", json.dumps(schema)) for i, schema in enumerate(SCHEMAS))
    )
    called = set()
    for seed in range(12):
        answer = engine.generate(
            Request(
                (BEGIN, 1),
                Sampling(seed=seed),
                Stop(max_new_tokens=900),
                tools=toolset,
                tool_choice=choice,
            )
        )
        assert answer.text == "" and answer.finish_reason is FinishReason.TOOL_CALLS
        [call] = answer.tool_calls
        jsonschema.validate(json.loads(call.arguments), SCHEMAS[int(call.name[-1])])
        called.add(call.name)
    assert called == ({"tool_0", "tool_1", "tool_2"} if choice == "required" else {choice})


def test_what_cannot_be_forced_is_refused(engine: Engine) -> None:
    bad = Toolset((Tool("get", "", '{"type": "object", "unevaluatedProperties": false}'),))
    with pytest.raises(InvalidRequestError, match="is 'required', but no answer can be") as caught:
        engine.submit(Request((BEGIN,), tools=bad, tool_choice="required"), Collector())
    assert caught.value.field == "tool_choice"
    for options, field in (
        ({"guide": Guide(regex="a")}, "tool_choice"),
        ({"stop": Stop(min_new_tokens=1)}, "stop.min_new_tokens"),
        ({"stop": Stop(ignore_eos=True)}, "stop.ignore_eos"),
    ):
        with pytest.raises(InvalidRequestError, match="beside a guide") as caught:
            Request((BEGIN,), tools=PLAIN, tool_choice="required", **options)  # type: ignore[arg-type]
        assert caught.value.field == field
