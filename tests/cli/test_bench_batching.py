"""`bench batching`: the document, the table, what is refused, and Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgellama.cli.__main__ import main

KEYS = {
    *("kind", "engine", "profile", "slots", "capacity", "precision", "threads", "parts", "rounds"),
    *("rounds_done", "minutes", "seed", "seconds", "left_out", "environment"),
    *("interference", "prefix", "shares", "memory", "forms"),
}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", "batching", *arguments])


@pytest.fixture(scope="module")
def roomy(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return an engine of 2 slots with 192 tokens, the least in which a long prompt has room."""
    out = tmp_path_factory.mktemp("engines") / "roomy"
    config = checkpoint / "config.json"
    before = config.read_text(encoding="utf-8")
    long = {**json.loads(before), "max_position_embeddings": 192}
    copy = tmp_path_factory.mktemp("checkpoint") / "long"
    copy.mkdir()
    for file in checkpoint.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "config.json").write_text(json.dumps(long), encoding="utf-8")
    options = ("--precision", "fp32", "--slots", "2", "--capacity", "192", "--json")
    done = CliRunner().invoke(
        main, ["build", "cpu-tiny", "--model", str(copy), "--out", str(out), *options]
    )
    assert done.exit_code == 0, done.output
    return str(out)


def test_the_document_goes_to_the_file_and_the_table_to_people(roomy: str, tmp_path: Path) -> None:
    file = tmp_path / "batching.json"
    done = run(roomy, "--rounds", "2", "--seed", "5", "--json", str(file))
    assert done.exit_code == 0, done.output
    assert list(tmp_path.iterdir()) == [file]
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    assert set(document) == KEYS
    assert document["kind"] == "batching" and document["rounds_done"] == 2
    assert document["interference"]["streams"] == 1
    for said in (
        "ITL p99, with a long prompt / alone",
        "TTFT of the long prompt, beside streams / idle",
        "TTFT, prefix cached / computed",
        "(peak memory - cache) / files",
        "all but model",
        "a prompt of 191 tokens",
        "96 tokens and 16 others, 96 found",
        "with the imports alone",
        "forms: left out, the engine has one form of the weights",
        "2 slots of 192 tokens, 2 of 2 rounds",
    ):
        assert said in done.stdout, said


def test_a_dash_is_standard_output(engine: str) -> None:
    done = run(engine, "--rounds", "1", "--parts", "prefix,memory", "--json=-")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["parts"] == ["prefix", "memory"] and document["shares"] is None
    assert list(document["left_out"]) == ["interference", "forms"]


def test_what_cannot_be_measured_is_said_before_the_work(engine: str, tmp_path: Path) -> None:
    done = run(engine, "--parts", "interference")
    assert done.exit_code == 1
    assert done.stderr == (
        "error: interference cannot be measured: a slot holds 96 tokens; 192 are needed; "
        "leave it out\n"
    )
    done = run(engine, "--parts", "prefix,latency")
    assert done.exit_code == 1 and "'latency'; it must be one of interference, " in done.stderr
    done = run(engine, "--json", str(tmp_path / "nowhere" / "a.json"))
    assert done.exit_code == 1
    assert "is no folder to write to" in json.loads(done.stderr)["error"]["message"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "ENGINE"),
        (("absent",), 1, "absent"),
        (("absent", "--rounds", "0"), 2, "--rounds"),
        (("absent", "--minutes", "-1"), 2, "--minutes"),
        (("absent", "--threads", "0"), 2, "--threads"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], code: int, said: str) -> None:
    done = run(*arguments)
    assert done.exit_code == code and said in done.stderr


def test_a_check_measures_again_what_the_baseline_has(engine: str, tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    assert run(engine, "--rounds", "1", "--parts", "memory", "--json", str(file)).exit_code == 0
    check = ["bench", "check", str(file), "--engine", engine, "--limit", "0.5", "--json"]
    done = CliRunner().invoke(main, check)
    assert done.exit_code == 0, done.output
    (figure,) = json.loads(done.stdout)["figures"]
    assert figure["figure"] == "memory ratio" and abs(figure["worsening"]) < 0.5


# The verb runs in a process of its own and gets a real signal at its first report of a stage.
SCRIPT = """
import os, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)
import edgellama.cli.progress as shown
from contextlib import contextmanager

@contextmanager
def interrupting():
    def show(stage, done, total):
        if [stage, done] == [sys.argv[1], 0]:  # a little later: in the middle of the work
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    yield show

shown.progress = interrupting
from edgellama.cli.__main__ import main
main(sys.argv[2:])
"""


@pytest.mark.parametrize("stage", ["memory", "rounds"])
def test_ctrl_c_leaves_nothing(engine: str, tmp_path: Path, stage: str) -> None:
    file = tmp_path / "batching.json"
    verb = ["bench", "batching", engine, "--rounds", "500", "--json", str(file)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, stage, *verb], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    assert done.stderr == "interrupted\n" and done.stdout == ""
    assert list(tmp_path.iterdir()) == []
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert f"memory_worker {engine}" not in processes.stdout
