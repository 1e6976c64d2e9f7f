"""What a step feeds besides the cache: tokens, places and lengths, in arrays made once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgellama.runtime.ort_session import Value, value_of
from edgellama.runtime.step import DecodeRow, PrefillChunk

Range: TypeAlias = "tuple[int, int]"  # slots [low, high)


@dataclass(frozen=True)
class StepShape:
    """What a step has: `rows` the slots of its batch, None without running rows; `tokens` in all,
    `chunk` of them a prompt's."""

    rows: Range | None
    tokens: int
    chunk: int

    @property
    def batch(self) -> int:
        """Rows of the batch, idle and spare ones included."""
        return 1 if self.rows is None else self.rows[1] - self.rows[0]


class StepFeeds:
    """The inputs of contract.py for target `ort`, filled step by step.

    Tokens stand in the order of the rows, those of the chunk behind them.
    """

    def __init__(self, slots: int, capacity: int) -> None:
        self._capacity = capacity
        most = slots + capacity
        self._count = np.arange(most, dtype=np.int64)
        self._ids = np.zeros((1, most), np.int64)
        self._decode_rows = np.zeros((slots, 1), np.int64)
        self._order = np.zeros((1, most), np.int64)
        self._indices = np.zeros(most, np.int64)
        self._seqlens = np.zeros(slots, np.int32)
        self._chunk_seqlens = np.zeros(1, np.int32)
        self._total = np.zeros((), np.int32)
        self._chunk_total = np.zeros((), np.int32)
        self._made: dict[tuple[str, int, int], Value] = {}

    def fill(
        self, decode: Sequence[DecodeRow], chunk: PrefillChunk | None, lengths: Sequence[int]
    ) -> StepShape:
        """Write the rows and the chunk; `lengths` as in `Step`, not read without rows."""
        running = len(decode)
        count = 0 if chunk is None else len(chunk.tokens)
        shape = StepShape(_range(decode), running + count, count)
        self._fill_rows(decode, chunk, lengths, shape.rows)
        self._chunk_seqlens[0], self._chunk_total[...] = 0, 1
        if chunk is not None:
            start, end = chunk.start, chunk.start + count
            if count < 1 or start < 0 or end > self._capacity:
                raise ValueError(
                    f"{count} tokens at position {start} do not fit a slot of {self._capacity}"
                )
            self._ids[0, running : running + count] = chunk.tokens
            self._chunk_seqlens[0], self._chunk_total[...] = end - 1, end
            batch = shape.batch
            self._order[0, running : running + count] = self._count[batch : batch + count]
        return shape

    def want_last(self, running: int, wanted: int, tokens: int) -> None:
        """Ask for the logits of the rows and, where one more is wanted, of the chunk's last."""
        self._indices[:running] = self._count[:running]
        if wanted > running:
            self._indices[running] = tokens - 1

    def want_all(self, tokens: int) -> None:
        """Ask for the logits of every token."""
        self._indices[:tokens] = self._count[:tokens]

    def values(self, shape: StepShape, wanted: int) -> Iterator[tuple[str, Value]]:
        """Yield every input by name, as views of these arrays in the sizes of the step.

        A chunk that is not there is the first token.
        """
        running = shape.tokens - shape.chunk
        first = running if shape.chunk else 0
        parts: tuple[tuple[str, npt.NDArray[Any], int, int], ...] = (
            ("input_ids", self._ids, 0, shape.tokens),
            ("decode_rows", self._decode_rows, 0, shape.batch),
            ("chunk_rows", self._count[None], first, first + max(shape.chunk, 1)),
            ("token_order", self._order, 0, shape.tokens),
            ("seqlens_k", self._seqlens, 0, shape.batch),
            ("logits_indices", self._indices, 0, wanted),
            ("chunk_seqlens_k", self._chunk_seqlens, 0, 1),
            ("total_sequence_length", self._total, 0, 0),
            ("chunk_total_sequence_length", self._chunk_total, 0, 0),
        )
        for name, array, start, stop in parts:
            key = (name, start, stop)
            value = self._made.get(key)
            if value is None:
                value = value_of(_view(array, start, stop))
                self._made[key] = value
            yield name, value

    def _fill_rows(
        self,
        decode: Sequence[DecodeRow],
        chunk: PrefillChunk | None,
        lengths: Sequence[int],
        rows: Range | None,
    ) -> None:
        if rows is None:
            self._decode_rows[0, 0], self._seqlens[0], self._total[...] = 0, 0, 1
            return
        low, high = rows
        self._decode_rows[: high - low] = 0  # an idle row feeds any token
        self._seqlens[: high - low] = lengths[low:high]
        for number, row in enumerate(decode):
            place = row.slot - low
            self._ids[0, number] = row.token
            self._decode_rows[place, 0] = number
            self._order[0, number] = place
        if chunk is not None and low <= chunk.slot < high:
            self._decode_rows[chunk.slot - low, 0] = len(decode)
            self._seqlens[chunk.slot - low] = chunk.start
        longest = int(self._seqlens[: high - low].max())
        if longest >= self._capacity:
            raise ValueError(
                f"a slot of {low}..{high - 1} has no position left: {list(lengths[low:high])}"
            )
        self._total[...] = longest + 1


def _range(decode: Sequence[DecodeRow]) -> Range | None:
    if not decode:
        return None
    slots = [row.slot for row in decode]
    return min(slots), max(slots) + 1


def _view(array: npt.NDArray[Any], start: int, stop: int) -> npt.NDArray[Any]:
    """Return `[1, n]` of an array of two axes and one row, `[n, ...]` of others, or a scalar."""
    if array.ndim == 0:
        return array
    return array[:, start:stop] if len(array) == 1 and array.ndim == 2 else array[start:stop]
