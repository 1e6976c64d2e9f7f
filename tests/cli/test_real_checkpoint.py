"""The whole command line on trained models: the embedded one, and those beside the repository."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def edgellama(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "edgellama.cli", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.fixture(scope="module")
def stories(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The engine of stories260k without any quantisation."""
    out = str(tmp_path_factory.mktemp("engines") / "stories")
    model = str(shared_data / "stories260k")
    edgellama("build", "cpu-tiny", "--model", model, "--precision", "fp32", "--out", out)
    return out


def test_the_perplexity_is_the_published_one(stories: str, shared_data: Path) -> None:
    text = str(shared_data / "text" / "tinystories_eval.txt")
    result = edgellama("evaluate", stories, "--text", text, "--split", "<|endoftext|>")
    assert result["perplexity"] == pytest.approx(4.3903, abs=2e-4)


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
    edgellama("build", "cpu-tiny", "--model", model, "--precision", "fp32", "--out", again)
    assert edgellama("inspect", again)["files"] == manifest["files"]
