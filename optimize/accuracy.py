"""What a build lost: the engine and the float model on the same short text, in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgellama.optimize.accuracy_text import DIALOGUES, TEXTS
from edgellama.profiles.profile import Accuracy
from edgellama.runtime.chat import ChatMessage
from edgellama.runtime.divergence import Divergence, negative_log_likelihood
from edgellama.runtime.text import TextCodec

Logits = npt.NDArray[np.float32]
TOKENS = 512  # of all samples together: logits of one sample are held, time is spent on all


class Scorer(Protocol):
    """A backend that gives the logits of every token of a chunk."""

    def run_tokens(self, slot: int, tokens: Sequence[int], start: int) -> Logits:
        """Feed `tokens` at `start`; returns float32 `[len(tokens), vocab]`."""


@dataclass(frozen=True)
class Sample:
    """A text as ids; the tokens `[first, len(ids))` are predicted and counted.

    Of a dialogue that is the answer: a model is not made to predict questions.
    """

    ids: tuple[int, ...]
    first: int


@dataclass(frozen=True)
class MeasuredAccuracy:
    """The engine against the float model over `tokens` predicted tokens of the built-in text.

    `perplexity_increase` is a fraction: 0.05 is 5 % more than `reference_perplexity`. The
    Kullback-Leibler divergence is in nats, from the float model to the engine.
    """

    tokens: int
    perplexity: float
    reference_perplexity: float
    perplexity_increase: float
    kl_mean: float
    kl_p99: float
    top1_agreement: float

    def as_dict(self) -> dict[str, Any]:
        """Return the plain form for `engine.json`."""
        return asdict(self)


def accuracy_samples(codec: TextCodec, capacity: int) -> list[Sample]:
    """Return the built-in text as ids, dialogues included when the model has a chat template.

    Each sample is cut at `capacity`, all of them together at `TOKENS`.
    """
    samples, left = [], TOKENS
    for sample in _all_samples(codec):
        ids = sample.ids[: min(capacity, left)]
        if len(ids) > sample.first:
            samples.append(Sample(ids, sample.first))
            left -= len(ids)
    return samples


def _all_samples(codec: TextCodec) -> Iterator[Sample]:
    bos = codec.generation.bos_id
    dialogues = iter(DIALOGUES if codec.has_chat_template else ())
    for text in TEXTS:
        ids = codec.encode(text, add_special_tokens=False)
        yield Sample((*([] if bos is None else [bos]), *ids), 1)
        for question, answer in islice(dialogues, len(DIALOGUES) // len(TEXTS)):
            yield _dialogue(codec, question, answer)


def _dialogue(codec: TextCodec, question: str, answer: str) -> Sample:
    asked = [ChatMessage("user", question)]
    prompt = codec.encode_chat(asked)
    whole = codec.encode_chat(
        [*asked, ChatMessage("assistant", answer)], add_generation_prompt=False
    )
    # A template may open an answer differently when it is being asked for.
    same = 0
    while same < min(len(prompt), len(whole)) and prompt[same] == whole[same]:
        same += 1
    return Sample(tuple(whole), max(1, same))


class AccuracyMeasurement:
    """Takes the float model's logits a sample at a time and runs the engine on the same ids.

    Nothing is kept but sums and 4 bytes a token.
    """

    def __init__(self, engine: Scorer, samples: Sequence[Sample], chunk: int) -> None:
        self.sequences = [list(sample.ids) for sample in samples]
        self._engine = engine
        self._samples = samples
        self._chunk = chunk
        self._divergence = Divergence()
        self._nll = 0.0
        self._reference_nll = 0.0
        self._tokens = 0

    def add(self, index: int, reference: Logits) -> None:
        """Compare sample `index`; `reference` are float32 logits `[len(ids), vocab]`."""
        sample = self._samples[index]
        ids = sample.ids
        for start in range(0, len(ids), self._chunk):
            tokens = ids[start : start + self._chunk]
            logits = self._engine.run_tokens(0, tokens, start)
            # Row i predicts the token behind it; the last row has none.
            begin = max(start, sample.first - 1)
            end = min(start + len(tokens), len(ids) - 1)
            if begin >= end:
                continue
            ours, theirs = logits[begin - start : end - start], reference[begin:end]
            targets = np.asarray(ids[begin + 1 : end + 1])
            self._nll += negative_log_likelihood(ours, targets)
            self._reference_nll += negative_log_likelihood(theirs, targets)
            self._divergence.add(theirs, ours)
            self._tokens += end - begin

    def result(self) -> MeasuredAccuracy:
        """Return the figures over all samples that were added; at least one must have been."""
        assert self._tokens, "no sample was added"
        found = self._divergence.as_dict()
        return MeasuredAccuracy(
            tokens=self._tokens,
            perplexity=math.exp(self._nll / self._tokens),
            reference_perplexity=math.exp(self._reference_nll / self._tokens),
            perplexity_increase=math.expm1((self._nll - self._reference_nll) / self._tokens),
            kl_mean=found["kl_mean"],
            kl_p99=found["kl_p99"],
            top1_agreement=found["top1_agreement"],
        )


def accuracy_fault(result: MeasuredAccuracy, wanted: Accuracy) -> str | None:
    """Return why the engine lost more than the profile allows, or None when it did not."""
    limit = wanted.max_perplexity_increase
    if limit is None or result.perplexity_increase <= limit:
        return None
    return (
        f"perplexity on the built-in text is {result.perplexity:.4g}, "
        f"{100 * result.perplexity_increase:.2f} % above the float model's "
        f"{result.reference_perplexity:.4g}; accuracy.max_perplexity_increase is {limit:g} "
        f"({100 * limit:g} %); choose a finer precision or a smaller precision.block_size, or "
        "raise the limit"
    )
