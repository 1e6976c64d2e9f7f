"""Ctrl-C in the middle of a build: exit code 130, one line, nothing left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from edgellama.cli import lazy
from edgellama.cli.lazy import LazyGroup


def test_ctrl_c_in_a_verb_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def endless() -> None:
        raise KeyboardInterrupt

    class Module:
        command = endless

    monkeypatch.setattr(lazy, "import_module", lambda _name: Module)
    done = CliRunner().invoke(LazyGroup("main", verbs={"endless": "anywhere"}), ["endless"])
    assert done.exit_code == 130
    assert done.stderr == "interrupted\n"


# The build runs in a process of its own and gets a real signal at its first report of a stage.
SCRIPT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import edgellama.cli.progress as shown
from contextlib import contextmanager

@contextmanager
def interrupting():
    def show(stage, done, total):
        if stage == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
    yield show

shown.progress = interrupting
from edgellama.cli.__main__ import main
main(sys.argv[2:])
"""


@pytest.mark.parametrize("stage", ["trace", "write weights", "verify"])
def test_an_interrupted_build_leaves_nothing(checkpoint: Path, tmp_path: Path, stage: str) -> None:
    out = tmp_path / "engines"
    out.mkdir()
    build = ["build", "cpu-tiny", "--model", str(checkpoint), "--out", str(out / "small")]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, stage, *build], capture_output=True, text=True
    )
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    assert done.stderr == "interrupted\n"
    assert list(out.iterdir()) == []
