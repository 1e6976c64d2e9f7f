"""All that is measured of one model: perplexity, distance from a reference, exact answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from edgellama.benchmark.documents import CHARACTERS_PER_TOKEN, documents
from edgellama.benchmark.first_difference import (
    PROMPTS,
    GreedyDivergence,
    first_difference,
    prompt_of,
)
from edgellama.benchmark.language_model import EvaluationError, LanguageModel
from edgellama.benchmark.perplexity import Perplexity, Reference, evaluate
from edgellama.benchmark.questions import Question, Score, answer_questions, score

# Called with (what is done, how much of it, how much there is).
Report = Callable[[str, int, int], None]
_LOGITS_AT_ONCE = 1 << 25  # 128 MB of float32 a model


@dataclass(frozen=True)
class Text:
    """What to score: a file, what separates its documents, and how much of it at most."""

    path: Path
    split: str | None = None
    limit_documents: int | None = None
    limit_tokens: int | None = None
    greedy_tokens: int = 64  # new tokens a prompt when compared with a reference; 0 for none


@dataclass(frozen=True)
class Evaluation:
    """The figures of one model; those about a reference are None without one.

    `divergence` has `kl_mean`, `kl_p99`, `kl_max` in nats and `top1_agreement`.
    """

    name: str
    precision: str
    size_bytes: int
    text: Perplexity
    reference_perplexity: float | None = None
    divergence: dict[str, float] | None = None
    greedy: GreedyDivergence | None = None
    score: Score | None = None

    @property
    def perplexity_increase(self) -> float | None:
        """Perplexity over the reference's, minus 1."""
        if self.reference_perplexity is None:
            return None
        return self.text.perplexity / self.reference_perplexity - 1

    def as_dict(self) -> dict[str, Any]:
        """Return the form for `--json`: only what was measured."""
        found: dict[str, Any] = {
            "engine": self.name,
            "precision": self.precision,
            "size_bytes": self.size_bytes,
            **self.text.as_dict(),
        }
        if self.divergence is not None:
            found["reference_perplexity"] = self.reference_perplexity
            found["perplexity_increase"] = self.perplexity_increase
            found |= self.divergence
        if self.greedy is not None:
            found["greedy"] = self.greedy.as_dict()
        if self.score is not None:
            found["questions"] = self.score.as_dict()
        return found


class ReferenceModel:
    """A reference, and the greedy answers it gave last: every engine is asked the same prompts."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self._asked: tuple[list[list[int]], int] | None = None
        self._answers: list[list[int]] = []

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        """Return `new_tokens` greedy tokens for each prompt."""
        if self._asked != (prompts, new_tokens):
            self._answers = self.model.generate(prompts, new_tokens, ())
            self._asked = (prompts, new_tokens)
        return self._answers


def evaluate_model(
    model: LanguageModel,
    text: Text,
    *,
    reference: ReferenceModel | None = None,
    questions: Sequence[Question] = (),
    report: Report,
) -> Evaluation:
    """Score a model on a text, and on questions where there are any; the text is streamed.

    Neither the whole text nor more than a chunk's logits are held. Raises EvaluationError.
    """
    if reference is not None:
        _require_same_vocabulary(model, reference.model)
    others = Reference(reference.model) if reference is not None else None
    capacity = min(model.capacity, reference.model.capacity if reference else model.capacity)
    chunk = max(1, min(model.chunk, _LOGITS_AT_ONCE // model.vocab_size))
    size = text.path.stat().st_size

    def texts() -> Iterator[str]:
        longest = capacity * CHARACTERS_PER_TOKEN
        found = documents(text.path, text.split, longest)
        for number, (document, done) in enumerate(islice(found, text.limit_documents), start=1):
            if reference is not None:
                _require_same_ids(model, reference.model, document)
            yield document
            if text.limit_documents is not None:
                report("documents", number, text.limit_documents)
            elif text.limit_tokens is None:
                report("bytes of text", done, size)

    result: Perplexity | None = None
    prompts: list[list[int]] = []
    for running, ids in evaluate(
        model,
        model.codec,
        model.codec.generation.bos_id,
        texts(),
        chunk=chunk,
        reference=others,
        limit_tokens=text.limit_tokens,
    ):
        result = running
        if text.limit_tokens is not None:
            report("tokens", running.tokens, text.limit_tokens)
        if reference is not None and text.greedy_tokens and len(prompts) < PROMPTS:
            prompt = prompt_of(ids, capacity, text.greedy_tokens)
            prompts += [prompt] if prompt is not None else []
    assert result is not None, "evaluate raises when there is nothing to score"
    theirs, divergence, greedy = None, None, None
    if others is not None:
        theirs = Perplexity(
            result.documents, result.cut_documents, result.tokens, result.bytes, others.nll
        ).perplexity
        divergence = others.divergence.as_dict()
    if reference is not None and prompts:
        greedy = _greedy_divergence(model, reference, prompts, text.greedy_tokens, report)
    scored = None
    if questions:
        answers = answer_questions(model, questions, lambda n, all_: report("questions", n, all_))
        scored = score(questions, answers)
    return Evaluation(
        model.name, model.precision, model.size_bytes, result, theirs, divergence, greedy, scored
    )


def _greedy_divergence(
    model: LanguageModel,
    reference: ReferenceModel,
    prompts: list[list[int]],
    new_tokens: int,
    report: Report,
) -> GreedyDivergence:
    """Continue every prompt with both, past stop ids, so that every prompt counts the same."""
    wanted = reference.generate(prompts, new_tokens)
    ours = model.generate(
        prompts, new_tokens, (), lambda n, all_: report("greedy answers", n, all_)
    )
    agreed = (first_difference(a, b) for a, b in zip(wanted, ours, strict=True))
    return GreedyDivergence(new_tokens, tuple(agreed))


def _require_same_vocabulary(model: LanguageModel, reference: LanguageModel) -> None:
    if reference.vocab_size != model.vocab_size:
        raise EvaluationError(
            f"the reference {reference.name} has a vocabulary of {reference.vocab_size} entries, "
            f"{model.name} {model.vocab_size}; give a reference of the same model"
        )


def _require_same_ids(model: LanguageModel, reference: LanguageModel, text: str) -> None:
    """Compare the tokenizers where it counts: one vocabulary size may hide two vocabularies."""
    ours, theirs = (m.codec.encode(text, add_special_tokens=False) for m in (model, reference))
    bos = model.codec.generation.bos_id, reference.codec.generation.bos_id
    if ours != theirs or bos[0] != bos[1]:
        raise EvaluationError(
            f"the reference {reference.name} has another tokenizer than {model.name}; give a "
            "reference of the same model"
        )
