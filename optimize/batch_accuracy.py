"""What the second form of an engine's weights, for large steps, loses and how far it is away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellama.optimize.accuracy import AccuracyMeasurement, MeasuredAccuracy, Sample
from edgellama.optimize.verify import KERNEL_KL_BAR
from edgellama.runtime.divergence import Divergence
from edgellama.runtime.ort import NEVER, OrtBackend

Logits = npt.NDArray[np.float32]


class _BatchForm:
    """A scorer whose every chunk is computed with the second form, and kept until it is taken."""

    def __init__(self, backend: OrtBackend) -> None:
        self._backend = backend
        self.computed: list[Logits] = []

    def run_tokens(self, slot: int, tokens: Sequence[int], start: int) -> Logits:
        """Feed `tokens` at `start`; returns float32 `[len(tokens), vocab]`."""
        self._backend.batch_from = 1
        try:
            logits = self._backend.run_tokens(slot, tokens, start)
            self.computed.append(logits)
            return logits
        finally:
            self._backend.batch_from = NEVER


class BatchMeasurement:
    """Compares the second form with the float model and, on the same ids, with the first."""

    def __init__(self, backend: OrtBackend, samples: Sequence[Sample], chunk: int) -> None:
        self._samples, self._chunk = samples, chunk
        self._first, self._second = backend, _BatchForm(backend)
        self._accuracy = AccuracyMeasurement(self._second, samples, chunk)
        self._apart = Divergence()

    def add(self, index: int, reference: Logits) -> None:
        """Compare sample `index`; `reference` are float32 logits `[len(ids), vocab]`.

        One form after the other: both write the same slot, and each reads its own cache.
        """
        ids, chunk = self._samples[index].ids, self._chunk
        first = [
            self._first.run_tokens(0, ids[start : start + chunk], start)
            for start in range(0, len(ids), chunk)
        ]
        self._accuracy.add(index, reference)
        for ours, theirs in zip(first, self._second.computed, strict=True):
            self._apart.add(ours, theirs)
        self._second.computed.clear()

    def fault(self, first: MeasuredAccuracy) -> str | None:
        """Return why the second form is not the same model, or None when it is.

        Codes of 8 bits lose next to nothing: it may be no farther from the float model than the
        `first`, but for what kernels add.
        """
        kl = self._accuracy.result().kl_mean
        if kl <= first.kl_mean + KERNEL_KL_BAR:
            return None
        return (
            f"the weights of large steps diverge by {kl:.3f} nats from the float model, the "
            f"others by {first.kl_mean:.3f}; the limit is {KERNEL_KL_BAR} more"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the plain form: its accuracy, and its distance from the first."""
        apart = self._apart.as_dict()
        names = ("kl_mean", "kl_p99", "top1_agreement")
        return {
            "accuracy": self._accuracy.result().as_dict(),
            "from_first": {name: apart[name] for name in names},
        }
