"""The record the scheduler gives to a backend; standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class DecodeRow(NamedTuple):
    """Feed `token` to `slot`, whose cache holds the positions `[0, position)`.

    One that `is_pinned` is computed with the first form of the weights, whatever runs beside it.
    A row with a `draft`, tokens that are guessed to follow, is alone in its step, without a chunk:
    `run_step` feeds the guesses too and gives logits for each.
    """

    slot: int
    token: int
    position: int
    is_pinned: bool = False
    draft: tuple[int, ...] = ()


@dataclass(frozen=True)
class PrefillChunk:
    """Feed prompt tokens to `slot`, whose cache holds `[0, start)`; afterwards `[0, start + n)`.

    Logits are wanted for the chunk's last token only when `is_last`, and those of all its tokens
    beside them when `is_scored`: `prompt_scores.run_step` asks for these. `is_pinned` as of a row.
    """

    slot: int
    tokens: tuple[int, ...]
    start: int
    is_last: bool
    is_scored: bool = False
    is_pinned: bool = False


@dataclass(frozen=True)
class SlotCopy:
    """Copy the positions `[0, length)` of the cache of slot `source` to slot `target`."""

    source: int
    target: int
    length: int


@dataclass(frozen=True)
class PrefixSave:
    """Save the positions `[0, length)` of a slot's cache on the host, as a new entry."""

    slot: int
    entry: int
    length: int


@dataclass(frozen=True)
class PrefixRestore:
    """Copy the first `length` positions of a saved entry, which stays, to a slot."""

    entry: int
    slot: int
    length: int


@dataclass(frozen=True)
class PrefixDrop:
    """Free an entry; nothing where it was never saved because an earlier step failed."""

    entry: int


CacheCopy = SlotCopy | PrefixSave | PrefixRestore | PrefixDrop


@dataclass(frozen=True)
class Step:
    """One pass of the model: every running row, and at most one chunk of one prompt.

    The `copies` come first, in their order: what one writes another may read. `lengths[s]` is the
    number of valid cache positions of slot `s` behind them and before the rows, 0 where nothing of
    a free one is kept; it is below the capacity, and a backend that must touch an idle slot may
    write only at position `lengths[s]` or above: the next token or chunk of that slot overwrites
    it.
    Logits come back as float32 `[rows, vocab]`: the decode rows in order, then the chunk's row
    when it is the last of its prompt. A row with a draft has one behind each of its guesses too.
    """

    decode: tuple[DecodeRow, ...]
    prefill: PrefillChunk | None
    lengths: tuple[int, ...]
    copies: tuple[CacheCopy, ...] = ()

    @property
    def num_logits(self) -> int:
        """Rows of logits that the step returns."""
        chunk = int(self.prefill is not None and self.prefill.is_last)
        return len(self.decode) + len(self.draft) + chunk

    @property
    def draft(self) -> tuple[int, ...]:
        """The guessed tokens behind the one row of the step."""
        return self.decode[0].draft if self.decode else ()

    @property
    def has_pinned(self) -> bool:
        """Whether a row or the chunk is computed with the first form of the weights in any case."""
        chunk = self.prefill
        return (chunk is not None and chunk.is_pinned) or any(r.is_pinned for r in self.decode)
