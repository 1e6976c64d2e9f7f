"""Feeds a backend of `small_llama` by hand and keeps what each slot holds."""

from __future__ import annotations

import numpy as np
from small_llama import SLOTS, VOCAB, Array, expected_logits

from edgellama.runtime.backend import Backend
from edgellama.runtime.step import DecodeRow, PrefillChunk, Step


class SlotDriver:
    """Feeds the slots of a backend, and compares with the sums in numpy."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.held: list[list[int]] = [[] for _ in range(SLOTS)]

    def run(
        self,
        decode: dict[int, int] | None = None,
        chunk: tuple[int, list[int]] | None = None,
        is_last: bool = True,
    ) -> Array:
        lengths = tuple(len(tokens) for tokens in self.held)
        rows = tuple(DecodeRow(s, token, lengths[s]) for s, token in (decode or {}).items())
        prefill = None
        if chunk is not None:
            slot, tokens = chunk
            prefill = PrefillChunk(slot, tuple(tokens), lengths[slot], is_last)
        step = Step(rows, prefill, lengths)
        logits = self.backend.run(step)
        assert logits.shape == (step.num_logits, VOCAB)
        for row in rows:
            self.held[row.slot].append(row.token)
        if chunk is not None:
            self.held[chunk[0]] += chunk[1]
        return logits.copy()

    def check(self, logits: Array, slots: list[int]) -> None:
        for row, slot in zip(logits, slots, strict=True):
            np.testing.assert_allclose(row, expected_logits(self.held[slot])[-1], atol=2e-5)
