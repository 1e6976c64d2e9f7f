"""`edgellama evaluate` on engines and exports: the figures, the table, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgellama.cli.__main__ import main
from edgellama.cli.evaluate import COLUMNS
from edgellama.cli.table import table

SPLIT = "<|endoftext|>"
# Behind the prompt of 16 tokens there must be something to generate.
STORIES = ("Two foxes and a hen went to town.", "It rained on the day of the fair.", "The end.")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["evaluate", *arguments])


def document(*arguments: str) -> Any:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def build(checkpoint: Path, out: Path, *options: str) -> str:
    limits = ["--slots", "4", "--capacity", "96"]
    arguments = ["build", "cpu-tiny", "--model", str(checkpoint), "--out", str(out)]
    done = CliRunner().invoke(main, [*arguments, *limits, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return str(out)


@pytest.fixture(scope="module")
def rounded(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same model in four bits."""
    out = tmp_path_factory.mktemp("engines") / "int4"
    return build(checkpoint, out, "--precision", "int4_rtn", "--block-size", "32")


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("exported") / "model"
    done = CliRunner().invoke(main, ["export", str(checkpoint), "--out", str(out)])
    assert done.exit_code == 0, done.output
    return str(out)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    path.write_text(f"\n{SPLIT}\n".join(STORIES), encoding="utf-8")
    return str(path)


def test_an_engine_against_itself_never_parts(engine: str, text: str) -> None:
    result = document(engine, "--text", text, "--split", SPLIT, "--reference", engine)
    assert result["kl_mean"] == result["kl_max"] == 0.0 and result["top1_agreement"] == 1.0
    assert result["perplexity_increase"] == 0.0
    greedy = result["greedy"]
    # The third story is shorter than a prompt.
    assert (greedy["prompts"], greedy["identical"], greedy["new_tokens"]) == (2, 2, 64)
    assert greedy["first_difference_min"] == 64


def test_an_export_is_the_engine_of_its_checkpoint(engine: str, exported: str, text: str) -> None:
    alone = document(engine, "--text", text, "--split", SPLIT)
    result = document(exported, "--text", text, "--split", SPLIT, "--reference", engine)
    assert result["perplexity"] == pytest.approx(alone["perplexity"], rel=1e-4)
    assert result["reference_perplexity"] == pytest.approx(alone["perplexity"], rel=1e-9)
    assert result["tokens"] == alone["tokens"] and result["kl_max"] < 1e-6
    assert result["greedy"]["identical"] == 2
    assert "greedy" not in alone and "kl_mean" not in alone


def test_an_export_is_a_reference_too(rounded: str, exported: str, text: str) -> None:
    options = ("--text", text, "--split", SPLIT, "--reference", exported)
    result = document(rounded, *options, "--greedy-tokens", "0")
    assert result["kl_mean"] > 1e-4 and "greedy" not in result
    increase = result["perplexity"] / result["reference_perplexity"] - 1
    assert result["perplexity_increase"] == pytest.approx(increase)


def test_the_table_has_a_row_an_engine(engine: str, rounded: str, exported: str, text: str) -> None:
    options = ("--compare", "--text", text, "--split", SPLIT, "--greedy-tokens", "8")
    first, second, third = document(engine, rounded, exported, *options)
    assert [row["engine"] for row in (first, second, third)] == [engine, rounded, exported]
    assert second["precision"].startswith("int4_rtn / ")
    assert third["precision"] == "fp32 / fp32 / fp32 (ONNX)"
    assert "kl_mean" not in first and third["kl_mean"] < 1e-6 < second["kl_mean"]
    assert second["reference_perplexity"] == pytest.approx(first["perplexity"], rel=1e-9)
    assert second == {**second, **document(rounded, *options[1:], "--reference", engine)}
    done = run(engine, rounded, exported, *options)
    head, *rows = done.stdout.splitlines()
    assert head.split() == " ".join(COLUMNS).split()
    assert [row.split()[0] for row in rows] == [engine, rounded, exported]
    assert f"{100 * second['perplexity_increase']:+.2f} %" in rows[1]


def test_another_reference_has_no_row(engine: str, rounded: str, exported: str, text: str) -> None:
    options = ("--compare", "--text", text, "--greedy-tokens", "0", "--reference", exported)
    rows = document(engine, rounded, *options)
    assert [row["engine"] for row in rows] == [engine, rounded]
    assert rows[0]["kl_mean"] < 1e-6 < rows[1]["kl_mean"]


def test_what_was_measured_is_told(engine: str, rounded: str, text: str) -> None:
    done = run(rounded, "--text", text, "--split", SPLIT, "--reference", engine)
    names = [line.split("  ")[0] for line in done.stdout.splitlines()]
    wanted = ["perplexity", "bits per byte", "tokens", "reference", "divergence", "same best"]
    assert names == [*wanted, "greedy"]


def test_limits(engine: str, text: str) -> None:
    options = ("--text", text, "--split", SPLIT)
    assert document(engine, *options, "--limit-tokens", "40")["tokens"] == 40
    assert document(engine, *options, "--limit-documents", "2")["documents"] == 2
    whole = document(engine, *options)
    assert whole["tokens"] == whole["bytes"] == sum(map(len, STORIES))
    assert whole["cut_documents"] == 0
    assert document(engine, "--text", text)["cut_documents"] == 1


@pytest.mark.parametrize("kind", ["engine", "export"])
def test_questions_are_asked_by_the_chat_template(
    engine: str, exported: str, text: str, tmp_path: Path, kind: str
) -> None:
    """The answer of `chat` is the exact one, and another is not."""
    asked = CliRunner().invoke(
        main,
        ["chat", engine, "--temperature", "0", "--max-new-tokens", "64", "--json"],
        input="Hi\n",
    )
    answer = json.loads(asked.stdout)["answers"][0]["text"].strip()
    messages = [{"role": "user", "content": "Hi"}]
    rows = [
        {"kind": "right", "messages": messages, "answer": answer},
        {"kind": "wrong", "messages": messages, "answer": answer + "!"},
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    model = engine if kind == "engine" else exported
    result = document(model, "--text", text, "--questions", str(path))["questions"]
    assert (result["questions"], result["exact"]) == (2, 1)
    assert result["kinds"]["right"]["percent"] == 100.0
    shown = run(model, "--text", text, "--questions", str(path)).stdout
    assert "1 of 2 answers exact, 50.0 %" in shown


def refusal(*arguments: str) -> str:
    done = run(*arguments)
    assert done.exit_code == 1 and done.stdout == "", done.output
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ")
    return done.stderr


def test_what_cannot_be_evaluated_is_one_line(engine: str, text: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text(" \n ", encoding="utf-8")
    assert "/no/such/text: No such file" in refusal(engine, "--text", "/no/such/text")
    assert "no document with a token" in refusal(engine, "--text", str(empty))
    assert "separator of documents is empty" in refusal(engine, "--text", text, "--split", "")
    assert "engine.json is missing" in refusal(str(tmp_path), "--text", text)
    assert "'/no/engine' is neither" in refusal(engine, "/no/engine", "--compare", "--text", text)
    assert "/no/questions" in refusal(engine, "--text", text, "--questions", "/no/questions")
    assert "has no question" in refusal(engine, "--text", text, "--questions", str(empty))


def test_a_reference_of_another_model_is_refused(
    engine: str, make_checkpoint: Callable[..., Path], text: str, tmp_path: Path
) -> None:
    larger = build(make_checkpoint(vocab_size=320), tmp_path / "larger", "--precision", "fp32")
    message = refusal(engine, "--text", text, "--reference", larger)
    assert "vocabulary of 320 entries" in message and "same model" in message


def test_several_engines_need_the_table(engine: str, text: str) -> None:
    done = run(engine, engine, "--text", text)
    assert done.exit_code == 2 and "--compare" in done.stderr


def test_columns_are_as_wide_as_they_need() -> None:
    assert table(("name", "n"), [("a", "10"), ("long", "7")]) == "name   n\na     10\nlong   7"
