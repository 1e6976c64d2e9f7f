"""The whole command line on trained models: the embedded one, and those beside the repository."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgellama.cli.__main__ import main

pytestmark = pytest.mark.slow


def edgellama(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(main, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.fixture(scope="module")
def stories(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The engine of stories260k without any quantisation."""
    out = str(tmp_path_factory.mktemp("engines") / "stories")
    model = str(shared_data / "stories260k")
    edgellama("build", "cpu-tiny", "--model", model, "--precision", "fp32", "--out", out)
    return out


def test_greedy_ids_are_those_of_the_c_program(stories: str, shared_data: Path) -> None:
    golden = json.loads((shared_data / "stories260k" / "greedy.json").read_text("utf-8"))
    for case in golden["cases"]:
        ids = ",".join(map(str, case["prompt_ids"]))
        wanted = case["new_ids_no_stop"]
        answer = edgellama(
            *("generate", stories, "--token-ids", ids, "--temperature", "0", "--ignore-eos"),
            *("--max-new-tokens", str(len(wanted))),
        )
        assert answer["token_ids"] == wanted, case["prompt"]


def test_the_demonstration(tmp_path: Path) -> None:
    engine = str(tmp_path / "engine")
    edgellama("build", "cpu-tiny", "--out", engine)
    done = subprocess.run(
        [sys.executable, "-m", "edgellama.examples.demo", engine],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout and done.stdout.count("tokens/s") == 3


def test_a_build_of_the_same_input_is_the_same(stories: str, shared_data: Path) -> None:
    """Another process makes the same bytes, so a digest means something."""
    manifest = edgellama("inspect", stories)
    again = str(Path(stories).parent / "again")
    model = str(shared_data / "stories260k")
    build = ["build", "cpu-tiny", "--model", model, "--precision", "fp32", "--out", again]
    subprocess.run([sys.executable, "-m", "edgellama.cli", *build], capture_output=True, check=True)
    assert edgellama("inspect", again)["files"] == manifest["files"]
