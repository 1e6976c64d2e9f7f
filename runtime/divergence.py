"""How far an engine's distributions are from a reference engine's, on the same text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellama.runtime.backend import Logits

_AT_ONCE = 1 << 21  # logits widened to float64 at once: 16 MB a temporary


def log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Return log-probabilities float64 of rows `[n, vocab]`."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True)))


def row_blocks(logits: Logits) -> Iterator[slice]:
    """Yield slices that cover the rows of `[n, vocab]`, each small enough to widen."""
    rows = max(1, _AT_ONCE // logits.shape[1])
    for start in range(0, len(logits), rows):
        yield slice(start, start + rows)


def negative_log_likelihood(logits: Logits, targets: npt.NDArray[np.integer[Any]]) -> float:
    """Return the sum over rows `[n, vocab]` of -log p(target), targets `[n]`, in nats."""
    total = 0.0
    for block in row_blocks(logits):
        rows = log_softmax(logits[block])
        total -= float(rows[np.arange(len(rows)), targets[block]].sum())
    return total


def row_divergence(reference: Logits, engine: Logits) -> npt.NDArray[np.float64]:
    """Return the Kullback-Leibler divergence KL(reference || engine) of each row, in nats."""
    log_p, log_q = log_softmax(reference), log_softmax(engine)
    p = np.exp(log_p)
    # A probability of 0 adds nothing, whatever the engine says there.
    difference = np.subtract(log_p, log_q, out=np.zeros_like(log_p), where=p > 0)
    return np.asarray((p * difference).sum(axis=-1))


class Divergence:
    """Collects rows; 4 bytes a token, so that percentiles are exact."""

    def __init__(self) -> None:
        self._kl: list[npt.NDArray[np.float32]] = []
        self._same = 0

    def add(self, reference: Logits, engine: Logits) -> None:
        """Count the rows `[n, vocab]` of both at the same positions."""
        for block in row_blocks(engine):
            rows = row_divergence(reference[block], engine[block])
            self._kl.append(rows.astype(np.float32))
        self._same += int((reference.argmax(axis=-1) == engine.argmax(axis=-1)).sum())

    def as_dict(self) -> dict[str, Any]:
        """Return mean, 99th percentile and maximum in nats, and the share of equal best tokens."""
        rows = np.concatenate(self._kl)
        return {
            "kl_mean": float(rows.mean(dtype=np.float64)),
            "kl_p99": float(np.percentile(rows, 99)),
            "kl_max": float(rows.max()),
            "top1_agreement": self._same / len(rows),
        }
