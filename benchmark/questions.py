"""Exact answers: chats that end with a question, each with the one answer that is right."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellama.benchmark.language_model import EvaluationError, LanguageModel, OnAnswer
from edgellama.runtime.chat import ChatMessage
from edgellama.runtime.request import InvalidRequestError

MAX_NEW_TOKENS = 64


@dataclass(frozen=True)
class Question:
    """A chat that ends with a question, its exact answer, and the kind it is counted under."""

    kind: str
    messages: tuple[ChatMessage, ...]
    answer: str


@dataclass(frozen=True)
class Score:
    """How many questions there were and how many were answered exactly, in all and by kind."""

    asked: Counter[str]
    exact: Counter[str]

    @property
    def percent(self) -> float:
        """Share of exact answers over all kinds, in percent."""
        return 100 * self.exact.total() / self.asked.total()

    def as_dict(self) -> dict[str, Any]:
        """Return the form for `--json`, percent to one decimal."""
        kinds = {
            kind: {
                "questions": count,
                "exact": self.exact[kind],
                "percent": round(100 * self.exact[kind] / count, 1),
            }
            for kind, count in self.asked.items()
        }
        return {
            "questions": self.asked.total(),
            "exact": self.exact.total(),
            "percent": round(self.percent, 1),
            "kinds": kinds,
        }


def read_questions(path: Path) -> list[Question]:
    """Read JSON lines with `kind`, `messages` (each `role`, `content`) and `answer`.

    Other keys are ignored. Raises EvaluationError naming the line.
    """
    questions = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path} is not UTF-8: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            messages = tuple(ChatMessage(m["role"], m["content"]) for m in row["messages"])
            kind, answer = row["kind"], row["answer"]
            if not isinstance(kind, str) or not isinstance(answer, str):
                raise ValueError("kind and answer must be texts")
        except (ValueError, KeyError, TypeError, InvalidRequestError) as error:
            raise EvaluationError(
                f"{path} line {number} is no question ({error!r}); it needs kind, messages and "
                "answer"
            ) from error
        questions.append(Question(kind, messages, answer.strip()))
    if not questions:
        raise EvaluationError(f"{path} has no question")
    return questions


def answer_questions(
    model: LanguageModel, questions: Sequence[Question], on_answer: OnAnswer | None = None
) -> list[str]:
    """Return the greedy answer of a model to each question, by its chat template.

    Raises EvaluationError when the model has no chat template or no room for an answer.
    """
    codec = model.codec
    if not codec.has_chat_template:
        raise EvaluationError(f"{model.name} has no chat template, so it cannot be asked questions")
    prompts = [codec.encode_chat(question.messages) for question in questions]
    answers = model.generate(prompts, MAX_NEW_TOKENS, codec.generation.stop_ids, on_answer)
    return [codec.decode(ids).strip() for ids in answers]


def score(questions: Sequence[Question], answers: Sequence[str]) -> Score:
    """Count the answers that are right in every character."""
    asked = Counter(question.kind for question in questions)
    exact = Counter(
        question.kind
        for question, answer in zip(questions, answers, strict=True)
        if answer.strip() == question.answer
    )
    return Score(asked, exact)
