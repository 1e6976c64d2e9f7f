"""A step in two parts: what is pinned to the first form of the weights, and the rest."""

from __future__ import annotations

from dataclasses import dataclass

from edgellama.runtime.step import DecodeRow, PrefillChunk, Step


@dataclass(frozen=True)
class StepPart:
    """Rows, and perhaps the chunk, of a step. `lengths` as in `Step`, when this part runs; its row
    r of logits is row `places[r]` of the step's."""

    decode: tuple[DecodeRow, ...]
    prefill: PrefillChunk | None
    lengths: tuple[int, ...]
    places: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens that it feeds."""
        return len(self.decode) + (0 if self.prefill is None else len(self.prefill.tokens))


def split_pinned(step: Step) -> tuple[StepPart, StepPart]:
    """Return the pinned part, which is to run first, and the rest.

    A row of the one part is an idle slot of the other: a form writes there at `lengths[slot]`. The
    pinned part runs over what the rest computes afterwards. To the rest, the slots of the pinned
    part are as much longer as it made them, so that what it computed stays; each needs one position
    to spare behind that.
    """
    pinned = _part(step, step.lengths, is_pinned=True)
    lengths = list(step.lengths)
    for row in pinned.decode:
        lengths[row.slot] = row.position + 1
    if pinned.prefill is not None:
        lengths[pinned.prefill.slot] = pinned.prefill.start + len(pinned.prefill.tokens)
    return pinned, _part(step, tuple(lengths), is_pinned=False)


def _part(step: Step, lengths: tuple[int, ...], *, is_pinned: bool) -> StepPart:
    places = [r for r, row in enumerate(step.decode) if row.is_pinned is is_pinned]
    decode = tuple(step.decode[r] for r in places)
    chunk = step.prefill
    if chunk is not None and chunk.is_pinned is not is_pinned:
        chunk = None
    if chunk is not None and chunk.is_last:
        places.append(len(step.decode))
    return StepPart(decode, chunk, lengths, tuple(places))
