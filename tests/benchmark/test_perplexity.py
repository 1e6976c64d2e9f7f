"""Perplexity on a model whose answer is known: a bigram table over letters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from edgellama.benchmark.language_model import EvaluationError
from edgellama.benchmark.perplexity import Perplexity, Reference, document_nll, evaluate

BOS = 3


class Letters:
    """`a`, `b`, `c` are 0, 1, 2."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        assert not add_special_tokens
        return ["abc".index(letter) for letter in text]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return "".join("abc"[token] for token in ids if token != BOS)


class Bigram:
    """Next-letter probabilities by the letter before; refuses a gap in the positions."""

    table = np.array([[0.5, 0.25, 0.25, 0], [0.1, 0.8, 0.1, 0], [1, 0, 0, 0], [0.2, 0.3, 0.5, 0]])

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0

    def run_tokens(self, slot: int, tokens: Sequence[int], start: int) -> npt.NDArray[np.float32]:
        assert slot == 0 and start in (0, self.length) and start + len(tokens) <= self.capacity
        self.length = start + len(tokens)
        with np.errstate(divide="ignore"):  # log 0 is what an impossible letter has
            return (np.log(self.table[list(tokens)]) + 7.0).astype(np.float32)


def last(steps: Sequence[tuple[Perplexity, list[int]]]) -> Perplexity:
    return steps[-1][0]


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_a_document_by_hand(chunk: int) -> None:
    """`abb`: 0.2 after BOS, b after a 0.25, b after b 0.8; the chunk size changes nothing."""
    nll = document_nll(Bigram(10), [BOS, 0, 1, 1], chunk)
    assert nll == pytest.approx(-math.log(0.2 * 0.25 * 0.8), rel=1e-6)


def test_all_documents_together() -> None:
    result = last(list(evaluate(Bigram(10), Letters(), BOS, ["abb", "ca"], chunk=2)))
    nll = -math.log(0.2 * 0.25 * 0.8) - math.log(0.5 * 1.0)
    assert (result.documents, result.tokens, result.bytes) == (2, 5, 5)
    assert result.perplexity == pytest.approx(math.exp(nll / 5), rel=1e-6)
    assert result.bits_per_byte == pytest.approx(nll / math.log(2) / 5, rel=1e-6)
    assert result.perplexity_per_byte == pytest.approx(2**result.bits_per_byte, rel=1e-6)
    assert {"perplexity", "bits_per_byte", "tokens"} <= set(result.as_dict())


def test_a_long_document_is_cut_at_the_capacity() -> None:
    """Capacity 3 is BOS and two letters, so two predictions and two bytes."""
    result = last(list(evaluate(Bigram(3), Letters(), BOS, ["abbbbb"], chunk=8)))
    assert (result.tokens, result.bytes, result.cut_documents) == (2, 2, 1)
    assert result.nll == pytest.approx(-math.log(0.2 * 0.25), rel=1e-6)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(EvaluationError, match="bos_token_id"):
        list(evaluate(Bigram(10), Letters(), None, ["a"], chunk=8))
    with pytest.raises(EvaluationError, match="no document"):
        list(evaluate(Bigram(10), Letters(), BOS, [], chunk=8))


def test_a_limit_of_tokens_cuts_the_last_document() -> None:
    """Three predictions in all: two of the first document, one of the second, none of the third."""
    found = evaluate(Bigram(10), Letters(), BOS, ["ca", "abb", "a"], chunk=8, limit_tokens=3)
    result = last(list(found))
    assert (result.documents, result.tokens, result.bytes) == (2, 3, 3)
    assert result.nll == pytest.approx(-math.log(0.5 * 1.0 * 0.2), rel=1e-6)


def test_the_reference_is_scored_on_the_same_tokens() -> None:
    """Against itself: the same likelihood, no divergence; and the smaller capacity cuts both."""
    reference = Reference(Bigram(3))
    found = evaluate(Bigram(10), Letters(), BOS, ["abbb"], chunk=2, reference=reference)
    result = last(list(found))
    assert (result.tokens, result.cut_documents) == (2, 1)
    assert reference.nll == result.nll
    assert reference.divergence.as_dict()["kl_max"] == 0.0
