"""Calls of tools in an answer: found in every form, however it is cut, and nothing else is one."""

from __future__ import annotations

import ast
import json
import keyword
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgellama.runtime.chat import ChatMessage
from edgellama.runtime.conversation import Conversation
from edgellama.runtime.tool_call_parser import ToolCallParser
from edgellama.runtime.tools import MAX_JSON_DEPTH, Tool, ToolCall, Toolset

EMPTY = '{"type": "object", "properties": {}}'
NAMES = ("get_weather", "get", "trending_songs", "a.b-c")
PLAIN = Toolset(tuple(Tool(name, "", EMPTY) for name in NAMES))
SEARCH = Toolset(PLAIN.tools, ("brave_search", "wolfram_alpha"))
CODE = Toolset(PLAIN.tools, ("brave_search", "code_interpreter"))
Found = list[tuple[str, Any]]


def parse(
    pieces: str | Sequence[str],
    toolset: Toolset = SEARCH,
    *,
    tagged: bool = False,
    cut: bool = False,
) -> tuple[str, tuple[ToolCall, ...]]:
    parser = ToolCallParser(toolset)
    if tagged:
        parser.tag()
    taken = [parser.push(piece) for piece in pieces]
    taken.append(parser.finish(is_cut=cut))
    return "".join(text for text, _ in taken), tuple(call for _, found in taken for call in found)


def found(calls: Sequence[ToolCall]) -> Found:
    return [(call.name, json.loads(call.arguments)) for call in calls]


WEATHER = [("get_weather", {"city": "SF"})]
# What Meta documents for 3.1 and 3.2, and what these models are known to write.
CALLS: list[tuple[str, Found]] = [
    ('{"name": "get_weather", "parameters": {"city": "SF"}}', WEATHER),
    (
        '{\n    "type": "function",\n    "name": "trending_songs",\n    "parameters": {\n'
        '        "n": "10",\n        "genre": "all"\n    }\n}',
        [("trending_songs", {"n": "10", "genre": "all"})],
    ),
    ('{"parameters": {"city": "SF"}, "name": "get_weather"}', WEATHER),
    ('{"name": "get_weather", "arguments": {"city": "SF"}}', WEATHER),
    (
        '{"name": "get_weather", "parameters": {"city": "SF"}}; {"name": "get", "parameters": {}}',
        [*WEATHER, ("get", {})],
    ),
    (
        '{"name": "get_weather", "parameters": {"city": "SF"}}\n'
        '{"name":"get","parameters":{"n":1}}',
        [*WEATHER, ("get", {"n": 1})],
    ),
    ('brave_search.call(query="gold price")', [("brave_search", {"query": "gold price"})]),
    ('<function=trending_songs>{"n": 10}</function>', [("trending_songs", {"n": 10})]),
    ('<function=trending_songs>{"n": 10}', [("trending_songs", {"n": 10})]),
    (
        "[get_weather(city='San Francisco', metric='celsius'), get_weather(city='Seattle')]",
        [
            ("get_weather", {"city": "San Francisco", "metric": "celsius"}),
            ("get_weather", {"city": "Seattle"}),
        ],
    ),
    ('[get_weather(city="SF")]', WEATHER),
    (
        "[get(a=7890, b=-1.5e3, c=True, d=None, e=[1, {'x': \"y\"},], "
        "f='it\\'s \\u00e9\\n', g=false)]",
        [
            (
                "get",
                {
                    "a": 7890, "b": -1500.0, "c": True, "d": None, "e": [1, {"x": "y"}],
                    "f": "it's é\n", "g": False,
                },
            )
        ],
    ),
    ("[get(), a.b-c(x=1)]", [("get", {}), ("a.b-c", {"x": 1})]),
    ('  \n{"name": "get", "parameters": {}} ;\n', [("get", {})]),
]  # fmt: skip


@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize(("text", "wanted"), CALLS)
def test_every_form_is_a_call_whole_and_cut(text: str, wanted: Found, tagged: bool) -> None:
    for pieces in ([text], text):  # a string is a sequence of its characters
        rest, calls = parse(pieces, tagged=tagged)
        assert (rest, found(calls)) == ("", wanted)
        assert all(call.id.startswith("call_") for call in calls)
        assert len({call.id for call in calls}) == len(calls)


NO_CALLS = [
    "",
    " \n",
    ";",
    '; {"name": "get", "parameters": {}}',
    "Hello, [world] {x} <b>",
    '{"name": "unknown", "parameters": {}}',
    '{"name": "get_weathe", "parameters": {}}',
    '{"name": "get"}',
    '{"parameters": {}}',
    '{"name": "get", "parameters": "x"}',
    '{"name": "get", "parameters": {}, "id": 1}',
    '{"name": "get", "name": "get", "parameters": {}}',
    '{"name": "get", "parameters": {}, "arguments": {}}',
    '{"name": "get", "parameters": {"a": 01}}',
    '{"name": "get", "parameters": {"a": NaN}}',
    '{"name": "get", "parameters": {"a": 1,}}',
    '{"name": "get", "parameters": {"a": 1e999}}',
    '{"name": "get", "parameters": {"a": "\\ud83d"}}',
    f'{{"name": "get", "parameters": {{"a": {"1" * 1001}}}}}',
    '{"name": "get", "parameters": {"a": "\t"}}',
    '{"name": "get", "parameters": {"a": "\\x"}}',
    '{"name": "get", "parameters": {\'a\': 1}}',
    '{"name": "get", "parameters": {"a": True}}',
    '{"name": "get", "parameters": {}',
    '{"type": "tool", "name": "get", "parameters": {}}',
    '[{"name": "get", "parameters": {}}]',
    'Use {"name": "get", "parameters": {}}',
    "[]",
    "[1, 2]",
    "[get]",
    "[get(1)]",
    "[get(x=1, x=2)]",
    "[get(x=y)]",
    "[get(x='a\nb')]",
    "[get(x='\\ud800')]",
    "[get(x=1) get(x=2)]",
    "[get(x=1), unknown(x=1)]",
    "[get(x=1)",
    "get(x=1)",
    "get.call(x=1)",
    "code_interpreter.call(query='x')",
    "brave_search.call('x')",
    'brave_search.call(query="say "hi"")',
    "<function=unknown>{}</function>",
    "<function=get>[]</function>",
    '<function=get>{"a": 1}</func>',
    '<function=get>{"a": 1} tail',
    "<function=get>",
]


@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize("text", NO_CALLS)
def test_what_is_no_call_stays_text(text: str, tagged: bool) -> None:
    for pieces in ([text], text):
        assert parse(pieces, tagged=tagged) == (text, ())


def test_only_what_is_offered_is_called() -> None:
    built_in = 'brave_search.call(query="x")'
    assert parse(built_in, PLAIN, tagged=True) == (built_in, ())
    program = "print(6 * 7)\n"
    assert parse(program, SEARCH, tagged=True) == (program, ())


def test_text_around_calls_is_kept() -> None:
    call = '{"name": "get", "parameters": {}}'
    assert parse(call + "\nDone; {x}")[0] == "\nDone; {x}"
    text, calls = parse('Look: <function=get>{"a": 1}</function> and <function=get>{}</function>.')
    assert text == "Look:  and ."
    assert found(calls) == [("get", {"a": 1}), ("get", {})]


def test_text_before_the_tag_stays_and_a_tag_ends_what_was_begun() -> None:
    parser = ToolCallParser(PLAIN)
    text, calls = parser.push("Let me see. ")
    assert (text, calls) == ("Let me see. ", ())
    parser.tag()
    text, calls = parser.push('{"name": "get", "parameters": {}}')
    assert text == "" and found(calls) == [("get", {})]
    parser = ToolCallParser(PLAIN)
    assert parser.push('{"name": ')[0] == ""
    parser.tag()
    text, calls = parser.push("[get()]")
    assert text == '{"name": ' and found(calls) == [("get", {})]


def test_a_tag_may_stand_behind_text_that_is_still_to_come() -> None:
    parser = ToolCallParser(PLAIN)
    parser.push("abc")
    parser.tag(behind=2)  # a stop string's beginning was held back when the tag came
    text, calls = parser.push("de[get()]")
    assert text == "de" and found(calls) == [("get", {})]
    assert parser.finish(is_cut=False) == ("", ())


def test_a_program_is_what_follows_the_tag() -> None:
    program = "def f():\n    return [1]\n\nprint(f())  # 🙂\n"
    text, calls = parse(program, CODE, tagged=True)
    assert text == "" and found(calls) == [("code_interpreter", {"code": program})]
    assert parse(program, CODE) == (program, ()), "without the tag it is text"
    assert parse(program, CODE, tagged=True, cut=True) == (program, ()), "half a program"
    assert parse(" \n", CODE, tagged=True) == (" \n", ())
    text, calls = parse("[get(x=1)]\nprint(1)", CODE, tagged=True)
    assert text == "" and [call.name for call in calls] == ["code_interpreter"]
    written_out = "code_interpreter.call(code='print(1)')"
    for form in (written_out, '{"name": "code_interpreter", "parameters": {"code": "print(1)"}}'):
        assert found(parse(form, CODE)[1]) == [("code_interpreter", {"code": "print(1)"})]
        assert parse(form, SEARCH) == (form, ())
    for call, wanted in [*CALLS, (written_out, [("code_interpreter", {"code": "print(1)"})])]:
        text, calls = parse(call, CODE, tagged=True)
        assert (text, found(calls)) == ("", wanted), "a call is no program"


def test_text_flows_and_a_call_comes_when_it_is_complete() -> None:
    parser = ToolCallParser(PLAIN)
    flow = [parser.push(char)[0] for char in 'Hi {"a": 1} <i>']
    assert "".join(flow) == 'Hi {"a": 1} <i>'
    assert flow[-3:] == ["", "<i", ">"], "only what could be a function tag waits"
    parser = ToolCallParser(PLAIN)
    flow = [parser.push(char)[0] for char in '{"city": 1}']
    assert flow == ["", "", '{"c', *'ity": 1}'], "no key of a call begins with c"
    parser = ToolCallParser(PLAIN)
    text = '{"name": "get", "parameters": {}}; {"name": "get", "parameters": {}}'
    counts = []
    for char in text:
        told, calls = parser.push(char)
        assert told == ""
        counts.append(len(calls))
    half = text.index("}}") + 1
    assert counts[half] == counts[-1] == 1 and sum(counts) == 2
    assert parser.num_calls == 2


def test_nesting_has_a_bound() -> None:
    deepest = "[" * (MAX_JSON_DEPTH - 1) + "]" * (MAX_JSON_DEPTH - 1)
    for form in ('{"name": "get", "parameters": {"a": VALUE}}', "[get(a=VALUE)]"):
        assert len(parse(form.replace("VALUE", deepest))[1]) == 1
        deeper = form.replace("VALUE", f"[{deepest}]")
        assert parse(deeper) == (deeper, ())


def test_the_time_is_linear_in_the_answer() -> None:
    """Also of what nearly is a call, again and again, and of what is held to the end."""
    head = '<function=get>{"a": "'
    for text in (
        head * 8000,
        head + "x" * 160_000,
        "<" * 160_000,
        " ;\n" * 50_000,
        "[get(" * 30_000,
    ):
        began = time.perf_counter()
        assert parse([text[at : at + 4] for at in range(0, len(text), 4)]) == (text, ())
        assert time.perf_counter() - began < 10.0


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
identifiers = st.text("abcdefgh_", min_size=1, max_size=5)
arguments = st.dictionaries(identifiers, json_values, max_size=4)
cuts = st.lists(st.integers(1, 9), min_size=1, max_size=9)


def cut(text: str, sizes: list[int]) -> list[str]:
    pieces = []
    while text:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(text[:size])
        text = text[size:]
    return pieces


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(NAMES), arguments), min_size=1, max_size=3), cuts)
def test_calls_that_are_written_are_read_back(made: Found, sizes: list[int]) -> None:
    objects = [json.dumps({"name": name, "parameters": values}) for name, values in made]
    wide = [
        json.dumps({"name": name, "parameters": values}, ensure_ascii=False, indent=2)
        for name, values in made
    ]
    tags = [f"<function={name}>{json.dumps(values)}</function>" for name, values in made]
    listed = ", ".join(
        f"{name}({', '.join(f'{key}={value!r}' for key, value in values.items())})"
        for name, values in made
    )
    texts = ["; ".join(objects), "\n".join(wide), "".join(tags), f"[{listed}]"]
    for text in texts:
        rest, calls = parse(cut(text, sizes))
        assert (rest, found(calls)) == ("", made)


@settings(max_examples=100, deadline=None)
@given(arguments.filter(lambda values: not any(map(keyword.iskeyword, values))))
def test_a_call_in_a_list_means_what_it_means_in_python(values: dict[str, Any]) -> None:
    text = f"[get({', '.join(f'{key}={value!r}' for key, value in values.items())})]"
    [call] = ast.parse(text, mode="eval").body.elts  # type: ignore[attr-defined]
    wanted = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    assert found(parse(text)[1]) == [("get", wanted)]


FRAGMENTS = [
    '{"name": "', "get", "get_weather", '", "parameters": {', '"a": ', "1", "}", "}}", "; ", "\n",
    "[", "]", "(", ")", "x=", "'y'", ", ", "<function=", ">", "</function>", "<", "brave_search",
    ".call(", 'query="', '"', "\\", "u00e9", "text ", "é", "🙂", "{", ":", "null",
    "true", "-", "\\ud83d", "\\ude00", "1e999",
]  # fmt: skip
answers = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=14).map("".join)
toolsets = st.sampled_from([PLAIN, SEARCH, CODE])


@settings(max_examples=600, deadline=None)
@given(answers, answers, cuts, toolsets, st.booleans())
@example("a", '{"name": "get", "parameters": {}}', [1], CODE, True)
def test_any_answer_is_told_apart_alike_however_it_is_cut(
    before: str, behind: str, sizes: list[int], toolset: Toolset, cut_short: bool
) -> None:
    outcomes = []
    for pieces in (([before], [behind]), (cut(before, sizes), cut(behind, sizes))):
        parser = ToolCallParser(toolset)
        taken = [parser.push(piece) for piece in pieces[0]]
        parser.tag()
        taken += [parser.push(piece) for piece in pieces[1]]
        taken.append(parser.finish(is_cut=cut_short))
        text = "".join(told for told, _ in taken)
        calls = [(call.name, call.arguments) for _, told in taken for call in told]
        assert parser.num_calls == len(calls)
        outcomes.append((text, calls))
    assert outcomes[0] == outcomes[1]
    text, calls = outcomes[0]
    if not calls:
        assert text == before + behind
    for name, values in calls:
        assert name in toolset.names
        assert isinstance(json.loads(values), dict)
    turn = ChatMessage("assistant", "", tuple(ToolCall(name, values) for name, values in calls))
    sent_back = Conversation([turn]).variables(lambda _, told: told)
    json.dumps(sent_back, ensure_ascii=False).encode()


@settings(max_examples=200, deadline=None)
@given(st.text(), toolsets)
def test_arbitrary_text_is_text(text: str, toolset: Toolset) -> None:
    told, calls = parse(text, toolset)
    assert calls or told == text


@settings(max_examples=100, deadline=None)
@given(arguments, st.data())
def test_a_call_that_is_cut_short_is_text(values: dict[str, Any], data: st.DataObject) -> None:
    whole = json.dumps({"name": "get", "parameters": values})
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]
    assert parse(part) == (part, ())
