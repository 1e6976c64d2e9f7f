"""Options that contradict themselves, that no device has, and input that is no text."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgellama.cli.__main__ import main
from edgellama.cli.failure import CliError
from edgellama.cli.turns import turns

OUT_OF_RANGE = (
    ["serve", "engine", "--port", "99999"],
    ["serve", "engine", "--port", "-1"],
    ["serve", "engine", "--grace", "-1"],
    ["serve", "engine", "--grace", "nan"],
    ["client", "info", "--target", "localhost:1", "--timeout", "-1"],
    ["bench", "serve", "--target", "localhost:1", "--timeout", "inf"],
)
TWICE = (
    (["generate", "engine", "--prompt", "a", "--prompt", "b"], "--prompt"),
    (["generate", "engine", "--prompt", "a", "--seed", "1", "--seed", "1"], "--seed"),
    (["plan", "cpu-tiny", "--slots", "2", "--slots=4"], "--slots"),
)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize("arguments", OUT_OF_RANGE, ids=" ".join)
def test_a_value_that_cannot_be_is_wrong_usage(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert f"'{arguments[-2]}'" in done.stderr


@pytest.mark.parametrize(("arguments", "flag"), TWICE, ids=str)
def test_an_option_given_twice_is_wrong_usage(arguments: list[str], flag: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert f"{flag} is given twice" in done.stderr


def test_a_repeatable_option_may_be_given_twice() -> None:
    done = run("generate", "/no/engine", "--prompt", "a", "--stop", "x", "--stop", "y")
    assert done.exit_code == 1 and "/no/engine" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "engine"],
        ["generate", "engine", "--no-such-option"],
        ["plan", "cpu-tiny", "--slots", "many"],
        ["plan"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_json_where_json_is_asked_for(arguments: list[str]) -> None:
    done = run(*arguments, "--json")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert json.loads(done.stderr)["error"]["message"]


def test_messages_that_are_no_text_are_refused() -> None:
    with pytest.raises(CliError, match="not UTF-8"):
        list(turns(TextIOWrapper(BytesIO(b"hi \xff\n"), encoding="utf-8")))
    with pytest.raises(CliError, match="closed"):
        list(turns(None))


def test_the_conversation_needs_a_standard_input(engine: str) -> None:
    command = f"exec {sys.executable} -m edgellama.cli chat {engine} <&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard input is closed")


def test_a_port_in_use_is_one_line(engine: str) -> None:
    """The wire library tells it too; its lines stay off the terminal."""

    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "edgellama.cli", "serve", engine, "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: cannot listen")


def test_an_export_is_told_with_units(checkpoint: Path, tmp_path: Path) -> None:
    done = run("export", str(checkpoint), "--out", str(tmp_path / "model"))
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["model", "dtype", "size", "peak"]
    assert lines[0].endswith(" s)") and all(line.endswith("B") for line in lines[2:])


def test_a_block_size_without_quantisation_is_refused(checkpoint: Path) -> None:
    arguments = ["plan", "cpu-tiny", "--model", str(checkpoint), "--block-size", "64"]
    assert run(*arguments).exit_code == 0
    done = run(*arguments, "--precision", "fp32")
    assert done.exit_code == 1 and "nothing is quantised" in done.stderr


def test_an_engine_does_not_replace_a_file(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "file"
    out.write_text("mine")
    done = run("build", "cpu-tiny", "--model", str(checkpoint), "--out", str(out))
    assert done.exit_code == 1 and f"{out} is a file" in done.stderr
    assert out.read_text() == "mine"
