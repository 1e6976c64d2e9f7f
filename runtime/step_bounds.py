"""The bounds of a step, checked before anything of it is enqueued.

TensorRT drops a write behind the end of a cache without a word, so nothing else would tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgellama.profiles.shapes import Range
from edgellama.runtime.step import CacheCopy, PrefixDrop, SlotCopy, Step


@dataclass(frozen=True)
class StepBounds:
    """What the pool, the model and the optimisation profiles of an engine can take."""

    slots: int
    capacity: int
    vocab_size: int
    batch: Range
    sequence: Range

    def check(self, step: Step) -> None:
        """Raise ValueError naming the value and its limit."""
        if len(step.lengths) != self.slots:
            raise ValueError(f"the step has {len(step.lengths)} lengths for {self.slots} slots")
        for copy in step.copies:
            self._check_copy(copy)
        if step.decode:
            self._check_decode(step)
        if step.prefill is not None:
            chunk = step.prefill
            self.check_chunk(chunk.slot, chunk.tokens, chunk.start)

    def check_chunk(self, slot: int, tokens: Sequence[int], start: int) -> None:
        """Raise ValueError unless the tokens fit the slot and the profile for prefill."""
        self._check_slot(slot)
        if len(tokens) not in self.sequence:
            raise ValueError(
                f"a chunk has {len(tokens)} tokens; the engine takes "
                f"{self.sequence.min} to {self.sequence.max} at once"
            )
        if start < 0 or start + len(tokens) > self.capacity:
            raise ValueError(
                f"{len(tokens)} tokens at position {start} do not fit a slot of {self.capacity}"
            )
        self._check_tokens(tokens)

    def _check_decode(self, step: Step) -> None:
        if len(step.decode) not in self.batch:
            raise ValueError(
                f"the step decodes {len(step.decode)} rows; the engine takes "
                f"{self.batch.min} to {self.batch.max}"
            )
        for row in step.decode:
            self._check_slot(row.slot)
            if row.position != step.lengths[row.slot]:
                raise ValueError(
                    f"slot {row.slot} decodes at position {row.position}, but holds "
                    f"{step.lengths[row.slot]} tokens"
                )
        # An idle slot is written at its length too.
        for slot, length in enumerate(step.lengths):
            if not 0 <= length < self.capacity:
                raise ValueError(
                    f"slot {slot} has no position left: it holds {length} of {self.capacity}"
                )
        self._check_tokens(row.token for row in step.decode)

    def _check_copy(self, copy: CacheCopy) -> None:
        if isinstance(copy, PrefixDrop):
            return
        if isinstance(copy, SlotCopy):
            self._check_slot(copy.source)
            self._check_slot(copy.target)
            if copy.source == copy.target:
                raise ValueError(f"slot {copy.source} is copied to itself")
        else:
            self._check_slot(copy.slot)
        if not 0 < copy.length < self.capacity:
            raise ValueError(
                f"{copy.length} positions of a slot are copied; 1 to {self.capacity - 1} can be"
            )

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.slots:
            raise ValueError(f"slot is {slot}; it must be in [0, {self.slots})")

    def _check_tokens(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"token id is {token}; the vocabulary is [0, {self.vocab_size})")
