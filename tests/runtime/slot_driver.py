"""Feeds a backend of `small_llama` by hand and keeps what each slot holds."""

from __future__ import annotations

import numpy as np
from small_llama import SLOTS, VOCAB, Array, expected_logits

from edgellama.runtime.backend import ScoringBackend
from edgellama.runtime.run_step import run_step
from edgellama.runtime.step import (
    CacheCopy,
    DecodeRow,
    PrefillChunk,
    PrefixDrop,
    PrefixRestore,
    PrefixSave,
    SlotCopy,
    Step,
)


class SlotDriver:
    """Feeds the slots of a backend, and compares with the sums in numpy."""

    def __init__(self, backend: ScoringBackend) -> None:
        self.backend = backend
        self.held: list[list[int]] = [[] for _ in range(SLOTS)]
        self.saved: dict[int, list[int]] = {}

    def run(
        self,
        decode: dict[int, int] | None = None,
        chunk: tuple[int, list[int]] | None = None,
        is_last: bool = True,
        copies: tuple[CacheCopy, ...] = (),
    ) -> Array:
        for copy in copies:
            if isinstance(copy, SlotCopy):
                self.held[copy.target] = self.held[copy.source][: copy.length]
            elif isinstance(copy, PrefixSave):
                self.saved[copy.entry] = self.held[copy.slot][: copy.length]
            elif isinstance(copy, PrefixRestore):
                self.held[copy.slot] = self.saved[copy.entry][: copy.length]
            else:
                del self.saved[copy.entry]
        lengths = tuple(len(tokens) for tokens in self.held)
        rows = tuple(DecodeRow(s, token, lengths[s]) for s, token in (decode or {}).items())
        prefill = None
        if chunk is not None:
            slot, tokens = chunk
            prefill = PrefillChunk(slot, tuple(tokens), lengths[slot], is_last)
        step = Step(rows, prefill, lengths, copies)
        logits = self.backend.run(step)
        assert logits.shape == (step.num_logits, VOCAB)
        for row in rows:
            self.held[row.slot].append(row.token)
        if chunk is not None:
            self.held[chunk[0]] += chunk[1]
        return logits.copy()

    def check_copies(self) -> None:
        """Copy a beginning twice before rows of both kinds, and go on from all three slots."""
        self.run(chunk=(2, [5, 9, 1, 7]))
        self.run(decode={2: 3})
        self.held[0] = []
        # Slot 2 goes on in the same step; what slot 1 takes was itself taken in it.
        copies = (SlotCopy(2, 0, 4), SlotCopy(0, 1, 3))
        logits = self.run(decode={2: 8, 0: 6}, chunk=(1, [2, 4]), copies=copies)
        assert self.held[:3] == [[5, 9, 1, 7, 6], [5, 9, 1, 2, 4], [5, 9, 1, 7, 3, 8]]
        self.check(logits, [2, 0, 1])
        self.check(self.run(decode={0: 1, 1: 1, 2: 1}), [0, 1, 2])

    def check_saved(self) -> None:
        """Save two prefixes, write over both, and go on from them in other slots, bit for bit."""
        self.run(chunk=(0, [5, 9, 1, 7, 3]))
        self.run(chunk=(1, [8, 2, 6]))
        wanted = self.run(decode={0: 4, 1: 6})
        # Each slot is overwritten by the copy behind its save.
        self.held[0], self.held[1] = self.held[0][:5], self.held[1][:3]
        self.run(
            chunk=(3, [1]),
            copies=(PrefixSave(0, 1, 5), SlotCopy(1, 0, 3), PrefixSave(1, 2, 3)),
        )
        for slot in (0, 1):
            self.held[slot] = []
            self.run(chunk=(slot, [11, 12, 13, 14, 15, 16]))
        # What comes back is copied on, and a part of it comes back where it was.
        copies = (
            PrefixRestore(1, 0, 5),
            PrefixRestore(2, 1, 3),
            SlotCopy(0, 2, 4),
            PrefixDrop(2),
            PrefixRestore(1, 3, 2),
            PrefixSave(1, 3, 2),
        )
        logits = self.run(decode={0: 4, 1: 6}, chunk=(2, [3, 4]), copies=copies)
        assert self.held == [[5, 9, 1, 7, 3, 4], [8, 2, 6, 6], [5, 9, 1, 7, 3, 4], [5, 9]]
        np.testing.assert_array_equal(logits[:2], wanted)
        self.check(logits, [0, 1, 2])
        self.held[0] = []
        logits = self.run(
            decode={3: 1}, chunk=(0, [6]), copies=(PrefixDrop(1), PrefixRestore(3, 0, 2))
        )
        self.check(logits, [3, 0])

    def check_scored(self) -> None:
        """Score a prompt in two chunks, the first beside copies alone, the second beside rows."""
        self.run(chunk=(1, [5, 9, 1, 7]))
        prompt = [4, 2, 8, 6, 3, 3]
        steps = (
            Step(
                (), PrefillChunk(2, (4, 2, 8), 0, False, True), (0, 4, 0, 0), (SlotCopy(1, 3, 4),)
            ),
            Step(
                (DecodeRow(1, 7, 4), DecodeRow(3, 2, 4)),
                PrefillChunk(2, (6, 3, 3), 3, True, True),
                (0, 4, 3, 4),
            ),
        )
        self.held[3], self.held[2] = self.held[1][:4], prompt
        rows, scores = run_step(self.backend, steps[0])
        assert scores is not None and rows.shape == (0, VOCAB)
        wanted = expected_logits(prompt)
        np.testing.assert_allclose(scores, wanted[:3], atol=2e-5)
        rows, scores = run_step(self.backend, steps[1])
        assert scores is not None
        np.testing.assert_allclose(scores, wanted[3:], atol=2e-5)
        self.held[1].append(7)
        self.held[3].append(2)
        self.check(rows, [1, 3, 2])
        self.check(self.run(decode={1: 1, 2: 1, 3: 1}), [1, 2, 3])

    def check(self, logits: Array, slots: list[int]) -> None:
        for row, slot in zip(logits, slots, strict=True):
            np.testing.assert_allclose(row, expected_logits(self.held[slot])[-1], atol=2e-5)
