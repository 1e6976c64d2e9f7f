"""The user's mistakes are one line and exit code 1; bugs keep their traceback."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from edgellama.cli.__main__ import main
from edgellama.cli.failure import describe
from edgellama.cli.verb import Verb
from edgellama.runtime.request import InvalidRequestError

MISTAKES = (
    ["profiles", "show", "no-such-device"],
    ["plan", "no-such-device"],
    ["plan", "cpu-tiny", "--model", "/no/such/folder"],
    ["build", "cpu-tiny", "--slots", "0"],
    ["optimize", "/no/such/model", "--profile", "cpu-tiny", "--out", "/tmp/none"],
    ["inspect", "/no/such/engine"],
    ["generate", "/no/such/engine", "--prompt", "a"],
    ["generate", "/no/such/engine", "--prompt", "a", "--top-p", "1.5"],
    ["chat", "/no/such/engine"],
    ["serve", "/no/such/engine"],
    ["bench", "latency", "/no/such/engine"],
)
WRONG_USAGE = (
    ["generate", "engine"],
    ["generate", "engine", "--prompt", "a", "--chat", "b"],
    ["generate", "engine", "--token-ids", "1,x"],
    ["build", "cpu-tiny", "--precision", "int2"],
    ["build", "cpu-tiny", "--block-size", "48"],
    ["plan"],
    ["bench", "latency", "engine", "--rows", "1,0"],
)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_line(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.exit_code == 1, done.output
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert isinstance(done.exception, SystemExit)


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_is_json_on_standard_error(arguments: list[str]) -> None:
    done = run(*arguments, "--json")
    assert done.exit_code == 1
    assert done.stdout == ""
    error = json.loads(done.stderr)["error"]
    assert error["kind"].endswith("Error") and error["message"]


@pytest.mark.parametrize("arguments", WRONG_USAGE, ids=" ".join)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert "Usage:" in done.stderr


def test_the_field_of_a_bad_request_is_named() -> None:
    done = run("generate", "/no/such/engine", "--prompt", "a", "--top-p", "1.5", "--json")
    error = json.loads(done.stderr)["error"]
    assert error["field"] == "sampling.top_p"
    assert "1.5" in error["message"]


def test_an_engine_that_was_not_built_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "edgellama build cpu-tiny" in run("serve", "cpu-tiny").stderr


def test_a_directory_that_is_no_engine_says_so(tmp_path: Path) -> None:
    done = run("inspect", str(tmp_path))
    assert done.exit_code == 1
    assert "engine.json" in done.stderr


def test_a_missing_package_names_its_extra() -> None:
    error = ModuleNotFoundError("No module named 'torch'", name="torch.nn")
    failure = describe(error)
    assert failure is not None
    assert "pip install 'edgellama[compile]'" in failure.message
    assert describe(ModuleNotFoundError("no", name="edgellama.cli.typo")) is None


def test_a_bug_is_not_hidden() -> None:
    @click.command(cls=Verb)
    def broken(as_json: bool) -> None:
        raise ValueError("our own bug")

    assert describe(ValueError("our own bug")) is None
    done = CliRunner().invoke(broken, ["--json"])
    assert isinstance(done.exception, ValueError)


def test_our_errors_and_the_system_s_are_described() -> None:
    failure = describe(InvalidRequestError("prompt", "is empty"))
    assert failure is not None
    assert failure.as_dict() == {
        "kind": "InvalidRequestError",
        "message": "prompt: is empty",
        "field": "prompt",
    }
    disk_full = describe(OSError(28, "No space left on device", "engines/x"))
    assert disk_full is not None and disk_full.message == "engines/x: No space left on device"
    assert describe(BrokenPipeError()) is None
