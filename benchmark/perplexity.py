"""Perplexity of a model on a text, and how far it is from a reference: a document at a time.

Protocol: split the text, strip each document, put BOS in front of its ids, cut at the capacity of
a slot; the mean negative log likelihood is over all predicted tokens of all documents.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgellama.benchmark.language_model import EvaluationError
from edgellama.runtime.backend import Logits
from edgellama.runtime.divergence import Divergence, negative_log_likelihood


class Scorer(Protocol):
    """What gives the logits of every token of a chunk."""

    @property
    def capacity(self) -> int:
        """Tokens a slot holds."""

    def run_tokens(self, slot: int, tokens: Sequence[int], start: int) -> Logits:
        """Feed `tokens` at `start`; returns float32 `[len(tokens), vocab]`."""


class Codec(Protocol):
    """Text to ids and back."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> Sequence[int]:
        """Return the ids of a text."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of ids."""


class Reference:
    """Another model of the same vocabulary, and what was found against it so far.

    `nll` is the reference's own summed negative log likelihood in nats, on the same tokens.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.divergence = Divergence()
        self.nll = 0.0


@dataclass(frozen=True)
class Perplexity:
    """Sums over all documents: `nll` in nats, `tokens` predicted, `bytes` of their text.

    `cut_documents` counts those that were longer than the capacity.
    """

    documents: int
    cut_documents: int
    tokens: int
    bytes: int
    nll: float

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log likelihood a token."""
        return math.exp(self.nll / self.tokens)

    @property
    def perplexity_per_byte(self) -> float:
        """exp of the mean negative log likelihood a byte of text."""
        return math.exp(self.nll / self.bytes)

    @property
    def bits_per_byte(self) -> float:
        """Negative log likelihood in bits a byte of text; comparable between tokenizers."""
        return self.nll / math.log(2) / self.bytes

    def as_dict(self) -> dict[str, Any]:
        """Return the form for `--json`."""
        return {
            "perplexity": self.perplexity,
            "perplexity_per_byte": self.perplexity_per_byte,
            "bits_per_byte": self.bits_per_byte,
            "tokens": self.tokens,
            "documents": self.documents,
            "cut_documents": self.cut_documents,
            "bytes": self.bytes,
        }


def document_nll(
    scorer: Scorer, ids: Sequence[int], chunk: int, reference: Reference | None = None
) -> float:
    """Return the summed negative log likelihood of `ids[1:]` in nats, each given its past.

    With a reference, its likelihood and the divergence of every predicted row are counted too.
    """
    total = 0.0
    for start in range(0, len(ids) - 1, chunk):
        inputs = ids[start : min(start + chunk, len(ids) - 1)]
        targets = np.asarray(ids[start + 1 : start + 1 + len(inputs)])
        logits = scorer.run_tokens(0, inputs, start)
        total += negative_log_likelihood(logits, targets)
        if reference is not None:
            theirs = reference.scorer.run_tokens(0, inputs, start)
            reference.nll += negative_log_likelihood(theirs, targets)
            reference.divergence.add(theirs, logits)
    return total


def evaluate(
    scorer: Scorer,
    codec: Codec,
    bos_id: int | None,
    texts: Iterable[str],
    *,
    chunk: int,
    reference: Reference | None = None,
    limit_tokens: int | None = None,
) -> Iterator[tuple[Perplexity, list[int]]]:
    """Yield the running result and the document's ids after each document.

    `chunk` tokens are scored at a time. Documents are cut at the smaller capacity of the two where
    there is a reference, and the last one where `limit_tokens` are predicted in all.

    Raises EvaluationError when the model has no BOS id or no token could be predicted.
    """
    if bos_id is None:
        raise EvaluationError("the model has no bos_token_id, which starts every document")
    result = Perplexity(0, 0, 0, 0, 0.0)
    capacity = scorer.capacity
    if reference is not None:
        capacity = min(capacity, reference.scorer.capacity)
    for text in texts:
        ids = [bos_id, *codec.encode(text, add_special_tokens=False)]
        kept = ids[:capacity]
        if limit_tokens is not None:
            kept = kept[: limit_tokens - result.tokens + 1]
        covered = text if len(kept) == len(ids) else codec.decode(kept)
        result = Perplexity(
            documents=result.documents + 1,
            cut_documents=result.cut_documents + (len(ids) > capacity),
            tokens=result.tokens + len(kept) - 1,
            bytes=result.bytes + len(covered.encode()),
            nll=result.nll + document_nll(scorer, kept, chunk, reference),
        )
        yield result, kept
        if result.tokens == limit_tokens:
            break
    if not result.tokens:
        raise EvaluationError("the text has no document with a token to predict")
