"""`edgellama evaluate` on trained models gives the figures that others measured of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgellama.cli.__main__ import main

pytestmark = pytest.mark.slow

# Of fp32 on the whole of tinystories_eval.txt: 1,187 stories, each cut at the context length.
PUBLISHED = {
    "stories260k": pytest.approx(4.3903, abs=2e-4),
    "babyllama105": pytest.approx(2.1109, rel=5e-4),
}


def edgellama(*arguments: str) -> Any:
    done = CliRunner().invoke(main, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def build(out: Path, *options: str) -> str:
    return str(edgellama("build", "cpu-tiny", "--out", str(out), *options)["engine"])


@pytest.fixture(scope="module")
def text(shared_data: Path) -> tuple[str, ...]:
    path = shared_data / "text" / "tinystories_eval.txt"
    return ("--text", str(path), "--split", "<|endoftext|>")


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_the_table_of_a_real_model(
    name: str, shared_data: Path, text: tuple[str, ...], tmp_path: Path
) -> None:
    checkpoint = str(shared_data / name)
    exact = build(tmp_path / "fp32", "--model", checkpoint, "--precision", "fp32")
    eight = build(tmp_path / "int8", "--model", checkpoint, "--precision", "int8")
    portable = str(tmp_path / "onnx")
    edgellama("export", checkpoint, "--out", portable)
    whole = edgellama("evaluate", exact, *text)
    assert whole["perplexity"] == PUBLISHED[name]
    assert whole["documents"] == 1187
    part = (*text, "--limit-documents", "60")
    rows = edgellama("evaluate", exact, eight, portable, "--compare", *part)
    _, rounded, graph = rows
    assert graph["perplexity_increase"] == pytest.approx(0.0, abs=1e-5)
    assert graph["kl_max"] < 1e-5 and graph["top1_agreement"] > 0.9999
    assert abs(rounded["perplexity_increase"]) < 0.005
    assert 1e-5 < rounded["kl_mean"] < 0.01
    greedy = rounded["greedy"]
    assert greedy["prompts"] == 32 and 0 < greedy["identical"] < 32
    assert graph["greedy"]["first_difference_mean"] > greedy["first_difference_mean"]


@pytest.mark.parametrize("kind", ["engine", "export"])
def test_the_tiny_model_answers_what_its_score_says(kind: str, tmp_path: Path) -> None:
    """transformers in fp32, as docs/tiny-llama.md has it; another batch may turn a near tie."""
    story = tmp_path / "story"
    story.write_text("Once upon a time there was a little owl.", encoding="utf-8")
    if kind == "engine":
        model = build(tmp_path / "model", "--precision", "fp32")
    else:
        model = str(edgellama("export", "tiny", "--out", str(tmp_path / "model"))["model"])
    found = edgellama("evaluate", model, "--text", str(story), "--questions", "tiny")["questions"]
    examples = Path(__file__).resolve().parents[2] / "examples" / "tiny_llama"
    score = json.loads((examples / "model" / "score.json").read_text(encoding="utf-8"))
    assert set(found["kinds"]) == set(score["kinds"])
    for name, wanted in score["kinds"].items():
        assert found["kinds"][name]["questions"] == wanted["questions"]
        assert abs(found["kinds"][name]["exact"] - wanted["exact"]) <= 1
    assert found["questions"] == 817
