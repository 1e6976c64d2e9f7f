"""The corpus is the same every time and shows no held-out question."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from edgellama.examples.tiny_llama import arithmetic, corpus, questions, strings
from edgellama.examples.tiny_llama.document import Document
from edgellama.examples.tiny_llama.facts import facts
from edgellama.examples.tiny_llama.train import STAGES


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    """Every document that the default training run sees."""
    return [d for stage in STAGES for d in stage.documents(stage.count, corpus.SEED)]


@pytest.fixture(scope="module")
def asked(documents: list[Document]) -> str:
    """Every different user message in lower case, one a line."""
    return "\n".join(
        sorted({m.content.lower() for d in documents for m in d.messages if m.role == "user"})
    )


def test_a_seed_gives_the_same_documents(documents: list[Document]) -> None:
    assert list(corpus.documents(500)) == documents[:500]


def test_a_seed_gives_the_same_practice() -> None:
    assert list(corpus.practice(500)) == list(corpus.practice(500))


def test_another_seed_gives_other_documents(documents: list[Document]) -> None:
    assert list(corpus.documents(500, seed=1)) != documents[:500]


def test_no_held_out_wording_occurs_in_the_corpus(asked: str) -> None:
    kinds = ("fact", "wording", "string")
    held = [each for each in questions.load() if each.kind in kinds]
    assert len(held) > 400
    for question in held:
        text = question.messages[-1].content.lower().rstrip("?.")
        # A word may go on after the text: "write 2" is no part of "write 20".
        found = text in asked and re.search(rf"(?<!\w){re.escape(text)}(?!\w| \w)", asked)
        assert not found, f"{question.id} is in the corpus: {question.messages[-1].content}"


def test_every_fact_is_asked_but_never_in_its_held_out_wording() -> None:
    for fact in facts():
        assert fact.asked, f"{fact.family} of {fact.subject} is never asked"
        for text in (fact.held, *fact.unseen):
            assert not any(text.lower() in asked.lower() for asked in fact.asked)


def test_no_held_out_sum_occurs_in_the_corpus(documents: list[Document]) -> None:
    texts = "\n".join(m.content for d in documents for m in d.messages if m.role == "assistant")
    shown = {
        (int(a), sign, int(b)) for a, sign, b in re.findall(r"(?<!\d)(\d+) ([-+]) (\d+) =", texts)
    }
    assert len(shown) > 10_000
    assert shown.isdisjoint(arithmetic.held_sums())


def test_held_out_sums_are_held_out_in_both_orders() -> None:
    held = set(arithmetic.held_sums())
    assert all((b, "+", a) in held for a, sign, b in held if sign == "+")


def test_the_arithmetic_questions_are_held_out_sums() -> None:
    held = {arithmetic.line(*each) + "." for each in arithmetic.held_sums()}
    asked = [each for each in questions.load() if each.kind == "arithmetic"]
    assert len(asked) >= 200
    assert {each.answer for each in asked} <= held


def test_the_string_questions_are_held_out_pairs() -> None:
    answers = {strings.answer(*pair) for pair in strings.held()}
    assert {each.answer for each in questions.load() if each.kind == "string"} <= answers


def test_no_held_out_chat_occurs_in_the_corpus(documents: list[Document]) -> None:
    held = [each for each in questions.load() if each.kind == "chat"]
    for size in {len(each.messages) for each in held}:
        shown = {
            d.messages[at : at + size]
            for d in documents
            for at in range(0, len(d.messages) - size + 1)
        }
        for question in held:
            assert question.messages not in shown, question.id


def test_the_questions_file_is_what_the_generator_makes() -> None:
    assert questions.FILE.read_text(encoding="utf-8") == questions.text(questions.questions())


def test_answers_are_short(documents: list[Document]) -> None:
    for document in islice(documents, 5000):
        assert all(m.content == m.content.strip() for m in document.messages)


def test_a_question_has_one_answer() -> None:
    answers: dict[str, str] = {}
    for fact in facts():
        for text in (*fact.asked, fact.held, *fact.unseen):
            assert answers.setdefault(text, fact.answer) == fact.answer, text


def test_an_unknown_sign_is_refused() -> None:
    with pytest.raises(ValueError, match="sign is '/'"):
        arithmetic.result(1, "/", 2)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="task is 'sing'"):
        strings.answer("sing", "cat")
