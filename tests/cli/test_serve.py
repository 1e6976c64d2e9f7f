"""`serve` in a process of its own, and the client verbs against it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgellama.cli.__main__ import main


def run(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), input=text)


@contextmanager
def serving(engine: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A running server and the document that it printed."""
    command = [sys.executable, "-m", "edgellama.cli", "serve", engine, "--port", "0", "--json"]
    command += options
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.rstrip() == "}":
                break
        yield process, json.loads("".join(lines))
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(engine: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    with serving(engine) as running:
        yield running


@pytest.fixture
def target(server: tuple[subprocess.Popen[str], dict[str, Any]]) -> str:
    return str(server[1]["target"])


def test_the_document_of_serve(
    server: tuple[subprocess.Popen[str], dict[str, Any]], engine: str
) -> None:
    process, document = server
    assert document["pid"] == process.pid
    assert document["engine"] == engine


def test_the_answer_over_the_wire_is_the_local_one(target: str, engine: str) -> None:
    options = ("--prompt", "Hello", "--max-new-tokens", "12", "--temperature", "0")
    whole = (*options, "--logprobs", "1", "--json")
    local = json.loads(run("generate", engine, *whole).stdout)
    remote = json.loads(run("client", "generate", "--target", target, *whole).stdout)
    # The wire has the log-probabilities as 32 bit.
    for mine, theirs in zip(local.pop("logprobs"), remote.pop("logprobs"), strict=True):
        assert mine["logprob"] == pytest.approx(theirs["logprob"], abs=1e-4)
    assert local == remote
    stream = run("client", "generate", "--target", target, *options)
    assert stream.stdout == local["text"] + "\n"


def test_several_outputs_locally_and_over_the_wire(target: str, engine: str) -> None:
    asked = ("--prompt", "Hello there, all of you", "--max-new-tokens", "6", "--ignore-eos")
    drawn = (*asked, "--temperature", "1.5", "--seed", "3", "--n", "3")
    local = json.loads(run("generate", engine, *drawn, "--json").stdout)
    remote = json.loads(run("client", "generate", "--target", target, *drawn, "--json").stdout)
    assert set(local) == {"outputs", "usage"}
    assert local["usage"]["output_tokens"] == 18
    assert local["outputs"] == remote["outputs"]
    assert len({output["text"] for output in local["outputs"]}) == 3
    second = (*asked, "--temperature", "1.5", "--seed", "4", "--json")
    alone = json.loads(run("generate", engine, *second).stdout)
    assert {k: v for k, v in alone.items() if k != "usage"} == local["outputs"][1]
    text = "".join(f"[{i}] {output['text']}\n" for i, output in enumerate(local["outputs"]))
    assert run("generate", engine, *drawn).stdout == text
    assert run("client", "generate", "--target", target, *drawn).stdout == text
    for command in (("generate", engine), ("client", "generate", "--target", target)):
        done = run(*command, "--prompt", "a", "--n", "5")
        assert done.exit_code == 1 and done.stderr.startswith("error: n: ")
        assert "4 slots" in done.stderr


def test_bad_words_locally_and_over_the_wire(target: str, engine: str) -> None:
    asked = ("--prompt", "Hello", "--max-new-tokens", "12", "--temperature", "0", "--json")
    plain = json.loads(run("generate", engine, *asked).stdout)["text"]
    word = next(character for character in plain if character.isascii() and character.isalnum())
    banned = (*asked, "--bad-word", word, "--bad-word", "~")
    local = json.loads(run("generate", engine, *banned).stdout)["text"]
    remote = json.loads(run("client", "generate", "--target", target, *banned).stdout)["text"]
    assert local == remote != plain
    assert word not in local
    done = run("generate", engine, "--prompt", "a", "--bad-word", "")
    assert done.exit_code == 1 and done.stderr.startswith("error: sampling.bad_words: ")


def test_guided_answers_locally_and_over_the_wire(target: str, engine: str, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": [true, false]}', encoding="utf-8")
    grammar = tmp_path / "grammar.lark"
    grammar.write_text('start: "x" | "y" "z"', encoding="utf-8")
    rules = {
        ("--choice", "red", "--choice", "blue"): ("red", "blue"),
        ("--regex", "[ab]c"): ("ac", "bc"),
        ("--json-schema", str(schema)): ("true", "false"),
        ("--grammar", str(grammar)): ("x", "yz"),
    }
    for rule, answers in rules.items():
        asked = ("--prompt", "a", "--temperature", "0", *rule, "--json")
        local = json.loads(run("generate", engine, *asked).stdout)
        remote = json.loads(run("client", "generate", "--target", target, *asked).stdout)
        assert local["text"] in answers and local["finish_reason"] == "guide"
        assert local["text"] == remote["text"]
    done = run("generate", engine, "--prompt", "a", "--regex", "(")
    assert done.exit_code == 1 and done.stderr.startswith("error: guide.regex: ")
    done = run("generate", engine, "--prompt", "a", "--grammar", str(tmp_path / "none"))
    assert done.exit_code == 1 and "none cannot be read" in done.stderr
    done = run("generate", engine, "--prompt", "a", "--regex", "a", "--choice", "a")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: guide: has regex and choices; give exactly one of")


def test_ids_and_chats_over_the_wire(target: str, engine: str) -> None:
    for prompt in (("--token-ids", "256,72,105"), ("--chat", "Hi")):
        options = (*prompt, "--max-new-tokens", "6", "--temperature", "0", "--json")
        remote = run("client", "generate", "--target", target, *options)
        assert json.loads(remote.stdout) == json.loads(run("generate", engine, *options).stdout)


def test_a_conversation_over_the_wire(target: str, engine: str) -> None:
    options = ("--max-new-tokens", "6", "--temperature", "0", "--json")
    text = "Hi\nAnd you?\n"
    remote = run("client", "chat", "--target", target, *options, text=text)
    both = [json.loads(done.stdout) for done in (remote, run("chat", engine, *options, text=text))]
    for document in both:
        cached = [each["usage"].pop("cached_prompt_tokens") for each in document["answers"]]
        assert cached[1] > 0, "the second turn begins with the first"
    assert both[0] == both[1], "what was cached before is the server's business"


def test_a_salt_over_the_wire_keeps_what_is_cached_apart(target: str) -> None:
    asked = ("--prompt", "what is asked more than once", "--max-new-tokens", "2", "--json")
    found = []
    for salt in ("a", "a", "b"):
        order = ("--cache-salt", salt, "--tenant", "t", "--priority", "3")
        done = run("client", "generate", "--target", target, *asked, *order)
        found.append(json.loads(done.stdout)["usage"]["cached_prompt_tokens"])
    assert found[0] == found[2] == 0 < found[1]


@pytest.mark.parametrize(("option", "value"), [("--priority", "101"), ("--tenant", "t" * 129)])
def test_an_order_out_of_bounds_is_one_line(target: str, option: str, value: str) -> None:
    done = run("client", "generate", "--target", target, "--prompt", "a", option, value)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: {option[2:]}: ")


def test_the_trace_of_a_server(target: str, tmp_path: Path) -> None:
    asked = ("--prompt", "trace me", "--max-new-tokens", "5", "--ignore-eos", "--json")
    assert run("client", "generate", "--target", target, *asked).exit_code == 0
    file = tmp_path / "trace.json"
    done = run("trace", "--target", target, "--last", "3", "--json", str(file))
    assert done.exit_code == 0 and "backend" in done.stdout
    events = json.loads(file.read_text("utf-8"))["traceEvents"]
    assert sum(event["name"].startswith("step ") for event in events) == 3
    printed = run("trace", "--target", target, "--json", "-").stdout
    assert len(json.loads(printed)["traceEvents"]) > len(events)


def test_more_prompts_than_slots_come_back_from_the_prefix_store(
    engine: str, tmp_path: Path
) -> None:
    asked = ("--max-new-tokens", "4", "--temperature", "0", "--ignore-eos", "--json")
    prompts = [f"{name} went out and came back with a story." for name in "ABCDEFGH"]

    def answer(target: str, prompt: str) -> dict[str, Any]:
        done = run("client", "generate", "--target", target, "--prompt", prompt, *asked)
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    with serving(engine, "--prefix-store", "16") as (_, document):
        target = document["target"]
        answers = [answer(target, prompt) for prompt in (*prompts, prompts[0])]
        file = tmp_path / "trace.json"
        done = run("trace", "--target", target, "--json", str(file))
    assert answers[-1]["token_ids"] == answers[0]["token_ids"]
    first, last = (answers[i]["usage"] for i in (0, -1))
    assert first["cached_prompt_tokens"] == 0
    assert last["cached_prompt_tokens"] == last["prompt_tokens"] - 1
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("prefix store"))
    assert line.endswith(" prefixes saved, 1 restored")
    events = json.loads(file.read_text("utf-8"))["traceEvents"]
    assert sum(event["args"].get("restores", 0) for event in events) == 1


@pytest.mark.parametrize(
    ("mib", "code", "words"),
    [
        ("-1", 2, "-1 is not in the range x>=0"),
        ("0.5", 2, "'0.5' is not a valid integer"),
        ("999999999", 1, "error: limits.prefix_store_mib is 999999999; it must be 0"),
    ],
)
def test_a_prefix_store_that_cannot_be_is_refused(
    engine: str, mib: str, code: int, words: str
) -> None:
    done = run("serve", engine, "--prefix-store", mib)
    assert done.exit_code == code and words in done.stderr


@pytest.mark.parametrize(("tokens", "guesses"), [("7", True), ("0", False)])
def test_guesses_are_for_one_server_to_have(
    engine: str, tmp_path: Path, tokens: str, guesses: bool
) -> None:
    prompt = "one two one two"
    asked = ("--regex", "( one two){4}", "--temperature", "0", "--json")
    with serving(engine, "--draft-tokens", tokens, "--chunk-slowdown", "1.5") as (_, document):
        target = document["target"]
        done = run("client", "generate", "--target", target, "--prompt", prompt, *asked)
        file = tmp_path / "trace.json"
        run("trace", "--target", target, "--json", str(file))
    alone = run("generate", engine, "--prompt", prompt, *asked)
    assert json.loads(done.stdout)["token_ids"] == json.loads(alone.stdout)["token_ids"]
    events = json.loads(file.read_text("utf-8"))["traceEvents"]
    assert any(event["args"].get("drafted", 0) for event in events) == guesses


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--draft-tokens", "-1", "-1 is not in the range x>=0"),
        ("--chunk-slowdown", "1", "1.0 is not in the range x>1.0"),
        ("--chunk-slowdown", "inf", "limits.chunk_slowdown is inf; it must be > 1 and finite"),
    ],
)
def test_limits_that_cannot_be_are_refused(
    engine: str, option: str, value: str, words: str
) -> None:
    done = run("serve", engine, option, value)
    assert done.exit_code != 0 and words in done.stderr


def test_info_describes_the_model(target: str) -> None:
    document = json.loads(run("client", "info", "--target", target, "--json").stdout)
    assert document["vocab_size"] == 258
    assert document["limits"]["slots"] == document["limits"]["max_outputs"] == 4
    assert "vocab_size" in run("client", "info", "--target", target).stdout


def test_a_refusal_of_the_server_is_one_line(target: str) -> None:
    done = run("client", "generate", "--target", target, "--prompt", "a", "--max-new-tokens", "999")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


def test_a_port_in_use_is_one_line(target: str, engine: str) -> None:
    port = target.rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, "-m", "edgellama.cli", "serve", engine, "--port", port, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and done.stdout == ""
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert f"cannot listen on {target}" in error["message"]


def test_no_server_is_one_line() -> None:
    done = run("client", "info", "--target", "127.0.0.1:1", "--timeout", "5")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")


def test_sigterm_ends_the_server_with_0(
    server: tuple[subprocess.Popen[str], dict[str, Any]],
) -> None:
    process, _ = server  # the last test of this file: the server is gone afterwards
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
