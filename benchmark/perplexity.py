"""Perplexity of an engine on a text: each document alone, as a stream.

Protocol: split the text, strip each document, put BOS in front of its ids, cut at the capacity of
a slot; the mean negative log likelihood is over all predicted tokens of all documents.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgellama.runtime.backend import Logits
from edgellama.runtime.divergence import Divergence, log_softmax

_READ = 1 << 16


class Scorer(Protocol):
    """A backend that returns the logits of every token of a chunk."""

    @property
    def capacity(self) -> int:
        """Tokens a slot holds."""

    def run_tokens(self, slot: int, tokens: Sequence[int], start: int) -> Logits:
        """Feed `tokens` at `start`; returns float32 `[len(tokens), vocab]`."""

    def close(self) -> None:
        """Free the weights."""


class Codec(Protocol):
    """Text to ids and back."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> Sequence[int]:
        """Return the ids of a text."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of ids."""


class EvaluationError(ValueError):
    """A text that cannot be scored."""


@dataclass(frozen=True)
class Reference:
    """Another engine of the same vocabulary, and what was found against it so far."""

    scorer: Scorer
    divergence: Divergence


@dataclass(frozen=True)
class Perplexity:
    """Sums over all documents: `nll` in nats, `tokens` predicted, `bytes` of their text."""

    documents: int
    tokens: int
    bytes: int
    nll: float

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log likelihood a token."""
        return math.exp(self.nll / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """Negative log likelihood in bits a byte of text; comparable between tokenizers."""
        return self.nll / math.log(2) / self.bytes

    def as_dict(self) -> dict[str, Any]:
        """Return the form for `--json`."""
        return {
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "tokens": self.tokens,
            "documents": self.documents,
            "bytes": self.bytes,
        }


def documents(path: Path, split: str | None) -> Iterator[tuple[str, int]]:
    """Yield (stripped document, bytes of the file read so far), holding one document at a time.

    Raises EvaluationError for a text that is not UTF-8 and for an empty separator.
    """
    if split == "":
        raise EvaluationError("the separator of documents is empty; leave it out for one document")
    done, rest = 0, ""
    for piece in _pieces(path):
        done += len(piece.encode())
        rest += piece
        if split:
            *whole, rest = rest.split(split)
            yield from ((text.strip(), done) for text in whole if text.strip())
    if rest.strip():
        yield rest.strip(), done


def _pieces(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as stream:
        try:
            while piece := stream.read(_READ):
                yield piece
        except UnicodeDecodeError as error:
            raise EvaluationError(f"{path} is not UTF-8: {error}") from error


def document_nll(
    scorer: Scorer, ids: Sequence[int], chunk: int, reference: Reference | None = None
) -> float:
    """Return the summed negative log likelihood of `ids[1:]` in nats, each given its past.

    With a reference, the divergence of every predicted row from the reference's is counted too.
    """
    total = 0.0
    for start in range(0, len(ids) - 1, chunk):
        inputs = ids[start : min(start + chunk, len(ids) - 1)]
        logits = scorer.run_tokens(0, inputs, start)
        if reference is not None:
            reference.divergence.add(reference.scorer.run_tokens(0, inputs, start), logits)
        targets = np.asarray(ids[start + 1 : start + 1 + len(inputs)])
        total -= float(log_softmax(logits)[np.arange(len(inputs)), targets].sum())
    return total


def evaluate(
    scorer: Scorer,
    codec: Codec,
    bos_id: int | None,
    texts: Iterable[str],
    *,
    chunk: int,
    reference: Reference | None = None,
) -> Iterator[Perplexity]:
    """Yield the running result after each document, scoring `chunk` tokens at a time.

    Documents are cut at the smaller capacity of the two where there is a reference.

    Raises EvaluationError when the model has no BOS id or no token could be predicted.
    """
    if bos_id is None:
        raise EvaluationError("the model has no bos_token_id, which starts every document")
    result = Perplexity(0, 0, 0, 0.0)
    capacity = scorer.capacity
    if reference is not None:
        capacity = min(capacity, reference.scorer.capacity)
    for text in texts:
        ids = [bos_id, *codec.encode(text, add_special_tokens=False)]
        kept = ids[:capacity]
        covered = text if len(kept) == len(ids) else codec.decode(kept)
        result = Perplexity(
            documents=result.documents + 1,
            tokens=result.tokens + len(kept) - 1,
            bytes=result.bytes + len(covered.encode()),
            nll=result.nll + document_nll(scorer, kept, chunk, reference),
        )
        yield result
    if not result.tokens:
        raise EvaluationError("the text has no document with a token to predict")
