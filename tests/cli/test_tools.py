"""Tools on the command line, in this process and against a server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgellama.cli.__main__ import main
from edgellama.cli.answer import print_outputs, print_stream
from edgellama.cli.talk import Talk
from edgellama.runtime.chat import ChatMessage
from edgellama.runtime.completion import Completion, Output
from edgellama.runtime.event import Delta, FinishReason, Timing, Usage
from edgellama.runtime.tools import ToolCall

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Rome", "Zürich"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
]


def run(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), input=text)


@pytest.fixture(scope="module")
def engine(
    make_checkpoint: Callable[..., Path],
    tool_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """A small random Llama whose chat template knows tools."""
    checkpoint = make_checkpoint(max_position_embeddings=4096)
    path = checkpoint / "tokenizer_config.json"
    settings = {**json.loads(path.read_text("utf-8")), "chat_template": tool_template}
    path.write_text(json.dumps(settings), encoding="utf-8")
    out = str(tmp_path_factory.mktemp("engines") / "tools")
    options = ("--precision", "fp32", "--slots", "2", "--capacity", "2048", "--out", out)
    done = run("build", "cpu-tiny", "--model", str(checkpoint), *options)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def target(engine: str) -> Iterator[str]:
    """A server of the engine in this process."""
    import asyncio

    from edgellama.grpc_service.server import Server
    from edgellama.runtime.engine import Engine

    addresses: list[str] = []
    started, stop = threading.Event(), threading.Event()

    def serve() -> None:
        async def work() -> None:
            with Engine.load(Path(engine)) as loaded:
                async with Server(loaded, port=0) as server:
                    addresses.append(server.address)
                    started.set()
                    while not stop.is_set():
                        await asyncio.sleep(0.02)

        asyncio.run(work())

    thread = threading.Thread(target=serve)
    thread.start()
    assert started.wait(60)
    yield addresses[0]
    stop.set()
    thread.join()


@pytest.fixture
def tools(tmp_path: Path) -> str:
    path = tmp_path / "tools.json"
    path.write_text(json.dumps(TOOLS), encoding="utf-8")
    return str(path)


def without_ids(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert all(call.pop("id").startswith("call_") for call in calls)
    return calls


def test_a_forced_call_is_the_same_locally_and_over_the_wire(
    engine: str, target: str, tools: str
) -> None:
    asked = (
        "--chat",
        "Rome?",
        "--tools",
        tools,
        "--tool-choice",
        "get_weather",
        "--temperature",
        "0",
    )
    local = json.loads(run("generate", engine, *asked, "--json").stdout)
    remote = json.loads(run("client", "generate", "--target", target, *asked, "--json").stdout)
    [call] = without_ids(local["tool_calls"])
    assert call["name"] == "get_weather" and call["arguments"]["city"] in ("Rome", "Zürich")
    assert (local["text"], local["finish_reason"]) == ("", "tool_calls")
    without_ids(remote["tool_calls"])
    assert {**remote, "usage": None} == {**local, "usage": None}
    for verb in (("generate", engine), ("client", "generate", "--target", target)):
        [line] = run(*verb, *asked).stdout.splitlines()
        assert json.loads(line)["arguments"] == call["arguments"]


def test_every_output_of_a_prompt_has_its_calls(engine: str, target: str, tools: str) -> None:
    asked = ("--chat", "Rome?", "--tools", tools, "--tool-choice", "required", "--n", "2")
    for verb in (("generate", engine), ("client", "generate", "--target", target)):
        outputs = json.loads(run(*verb, *asked, "--json").stdout)["outputs"]
        assert [len(output["tool_calls"]) for output in outputs] == [1, 1]
        assert {output["finish_reason"] for output in outputs} == {"tool_calls"}
        lines = run(*verb, *asked).stdout.splitlines()
        assert [line[:4] for line in lines] == ["[0] ", "[1] "]
        assert {json.loads(line[4:])["name"] for line in lines} == {"get_weather"}


def test_the_line_after_a_call_is_its_result(engine: str, target: str, tools: str) -> None:
    asked = ("--tools", tools, "--tool-choice", "required", "--temperature", "0")
    text = 'Rome?\n{"celsius": 25}\n'
    for verb in (("chat", engine), ("client", "chat", "--target", target)):
        answers = json.loads(run(*verb, *asked, "--json", text=text).stdout)["answers"]
        assert [len(answer["tool_calls"]) for answer in answers] == [1, 1]
        grown = [answer["usage"]["prompt_tokens"] for answer in answers]
        assert grown[1] > grown[0] + len("<|start_header_id|>ipython<|end_header_id|>")
        lines = run(*verb, *asked, text=text).stdout.splitlines()
        assert [json.loads(line)["name"] for line in lines] == ["get_weather"] * 2


def test_tools_that_are_offered_are_in_the_document(engine: str, tools: str) -> None:
    asked = ("--chat", "Rome?", "--tools", tools, "--max-new-tokens", "3", "--json")
    answer = json.loads(run("generate", engine, *asked, "--builtin-tool", "brave_search").stdout)
    assert answer["tool_calls"] == [] and answer["finish_reason"] == "max_tokens"


def test_what_is_wrong_with_tools_is_one_line(engine: str, tools: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('[{"name": "f"}]')
    for arguments, code, text in (
        (("--prompt", "a", "--tools", tools), 2, "--tools and --builtin-tool need --chat"),
        (("--chat", "a", "--tool-choice", "required"), 2, "--tool-choice needs --tools"),
        (("--chat", "a", "--tools", str(tmp_path / "no")), 1, "cannot be read as JSON"),
        (("--chat", "a", "--tools", str(bad)), 1, "chat.tools[0].parameters: is missing"),
        (("--chat", "a", "--tools", tools, "--tool-choice", "x"), 1, "tool_choice: is 'x'"),
    ):
        done = run("generate", engine, *arguments)
        assert done.exit_code == code and text in done.stderr, done.stderr


def test_lines_of_text_and_of_calls(capsys: pytest.CaptureFixture[str]) -> None:
    call = ToolCall("f", '{"a": "é"}', "1")
    line = '{"id": "1", "name": "f", "arguments": {"a": "é"}}\n'
    for deltas, shown in (
        ([], "\n"),
        ([Delta(0, (), "a\n")], "a\n\n"),
        ([Delta(0, (), "", (), 0, (call,))], line),
        ([Delta(0, (), "a", (), 0, (call, call))], f"a\n{line}{line}"),
        (
            [Delta(0, (), "a", (), 0, (call,)), Delta(0, (), "b", (), 0, (call,))],
            f"a\n{line}b\n{line}",
        ),
        ([Delta(0, (), "", (), 0, (call,)), Delta(0, (), "b")], f"{line}b\n"),
    ):
        text, calls = print_stream(deltas)
        assert capsys.readouterr().out == shown
        assert text == "".join(delta.text for delta in deltas)
        assert len(calls) == shown.count(line)


def test_lines_of_several_outputs(capsys: pytest.CaptureFixture[str]) -> None:
    call = ToolCall("f", "{}", "1")
    line = '{"id": "1", "name": "f", "arguments": {}}\n'
    reason = FinishReason.EOS
    outputs = tuple(
        Output((), text, reason, None, (), calls)
        for text, calls in (("a", (call, call)), ("", (call,)), ("", ()))
    )
    usage, timing = Usage(1, 0), Timing(0.0, 0.0, 0.0)
    print_outputs(Completion(outputs=outputs, usage=usage, timing=timing))
    assert capsys.readouterr().out == f"[0] a\n[0] {line}[0] {line}[1] {line}[2] \n"


def test_a_talk_waits_for_the_result_of_every_call() -> None:
    talk = Talk("Be kind.")
    assert talk.hear("Rome?")
    calls = (ToolCall("f", "{}", "1"), ToolCall("g", "{}", "2"))
    talk.answered("", calls)
    assert not talk.hear("one") and talk.hear("two")
    talk.answered("Done.", ())
    assert talk.hear("Thanks.")
    assert talk.messages == [
        ChatMessage("system", "Be kind."),
        ChatMessage("user", "Rome?"),
        ChatMessage("assistant", "", calls),
        ChatMessage("tool", "one", tool_call_id="1"),
        ChatMessage("tool", "two", tool_call_id="2"),
        ChatMessage("assistant", "Done."),
        ChatMessage("user", "Thanks."),
    ]
