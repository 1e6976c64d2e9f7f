"""Questions with one exact answer: reading them, asking them, counting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgellama.benchmark.language_model import EvaluationError
from edgellama.benchmark.questions import Question, read_questions, score
from edgellama.examples.tiny_llama.questions import FILE
from edgellama.runtime.chat import ChatMessage

ROW = {"kind": "fact", "messages": [{"role": "user", "content": "Why?"}], "answer": "So."}
WRONG = (
    "not json",
    "[]",
    json.dumps({**ROW, "answer": 7}),
    json.dumps({**ROW, "messages": "Why?"}),
    json.dumps({**ROW, "messages": [{"role": "king", "content": "Why?"}]}),
    json.dumps({key: value for key, value in ROW.items() if key != "kind"}),
)


def question(kind: str, answer: str) -> Question:
    return Question(kind, (ChatMessage("user", "?"),), answer)


def test_the_questions_of_the_tiny_model() -> None:
    questions = read_questions(FILE)
    assert len(questions) == 817
    assert {one.kind for one in questions} == {"fact", "wording", "arithmetic", "string", "chat"}
    assert questions[0].messages[-1].role == "user" and questions[0].answer


@pytest.mark.parametrize("line", WRONG)
def test_a_line_that_is_no_question_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(ROW) + "\n\n" + line + "\n", encoding="utf-8")
    with pytest.raises(EvaluationError, match=r"questions\.jsonl line 3 is no question"):
        read_questions(path)


def test_a_file_without_a_question_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(EvaluationError, match="no question"):
        read_questions(path)
    path.write_bytes(b"\xff")
    with pytest.raises(EvaluationError, match="not UTF-8"):
        read_questions(path)


def test_an_answer_is_exact_or_wrong() -> None:
    questions = [question("a", "Yes."), question("a", "No."), question("b", "7")]
    result = score(questions, ["Yes.\n", "no.", "7"])
    assert result.as_dict() == {
        "questions": 3,
        "exact": 2,
        "percent": 66.7,
        "kinds": {
            "a": {"questions": 2, "exact": 1, "percent": 50.0},
            "b": {"questions": 1, "exact": 1, "percent": 100.0},
        },
    }
