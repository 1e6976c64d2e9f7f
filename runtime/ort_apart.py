"""A graph that computes the rows and the chunk of a step one after the other, and its bindings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellama.runtime.backend import Logits
from edgellama.runtime.ort_cache import CachePool
from edgellama.runtime.ort_session import Binding, Session, Value, value_of
from edgellama.runtime.step import DecodeRow, PrefillChunk


class ApartForm:
    """Past and present of a run are a view of the pool over a range of slots `[low, high)`.

    Rows take the smallest range that holds them; an idle slot inside writes at `lengths[slot]`,
    which its next chunk overwrites before anything reads it. A chunk takes its slot.

    A product of one row is summed in another order than one of several, whose rows do not depend
    on how many they are. So where a token must come out the same whatever runs beside it,
    `min_rows` is 2: a row alone takes an idle neighbour along, a chunk of one token has it twice.
    Both write where nothing is read before it is overwritten, the chunk behind its end.
    """

    def __init__(self, session: Session, pool: CachePool, logits: Logits) -> None:
        self._session: Any = session
        self._pool = pool
        self._logits = logits
        most = max(pool.capacity, pool.slots_in_all)
        self._ids = np.zeros(most, np.int64)
        self._indices = np.zeros(most, np.int64)
        self._seqlens = np.zeros(pool.slots_in_all, np.int32)
        self._total = np.zeros((), np.int32)
        self._total_value = value_of(self._total)
        self._bindings: dict[tuple[int, int], Binding] = {}
        self._values: dict[tuple[str, int, int], Value] = {}

    def run(
        self,
        decode: Sequence[DecodeRow],
        chunk: PrefillChunk | None,
        lengths: Sequence[int],
        *,
        min_rows: int = 1,
    ) -> float:
        """Run a step in products of `min_rows` or more; returns the seconds in the session.

        The logits of the rows, and behind them of the chunk's last token, are then in the array.
        Those of the chunk are computed and dropped when it is not the last: asking for no row works
        with MatMul and MatMulNBits, but reductions over an empty batch (dynamic quantisation in
        front of the head) do not.
        """
        seconds = 0.0
        if decode:  # an empty batch would kill the process inside GroupQueryAttention
            seconds += self._run_rows(decode, lengths, min_rows)
        if chunk is not None:
            row = len(decode)
            self._indices[:min_rows] = len(chunk.tokens) - 1
            binding = self._feed_chunk(chunk, min_rows)
            value = self._value("logits", row, row + min_rows)
            seconds += self._execute(binding, min_rows, value)
        return seconds

    def run_every(self, chunk: PrefillChunk, logits: Logits, *, min_rows: int = 1) -> float:
        """Run a chunk alone; `logits` takes those of all its tokens. Returns the seconds."""
        count = len(chunk.tokens)
        rows = max(count, min_rows)
        self._indices[:rows] = np.arange(rows)
        taken = logits if rows == count else np.empty((rows, logits.shape[1]), np.float32)
        seconds = self._execute(self._feed_chunk(chunk, min_rows), rows, value_of(taken))
        if taken is not logits:
            logits[...] = taken[:count]
        return seconds

    def close(self) -> None:
        """Free the weights."""
        self._bindings.clear()
        self._values.clear()
        self._session = None

    def _run_rows(
        self, decode: Sequence[DecodeRow], lengths: Sequence[int], min_rows: int
    ) -> float:
        """Run `[high - low, 1]` tokens; row r of the logits belongs to `decode[r]`."""
        slots = [row.slot for row in decode]
        low, high = min(slots), max(slots) + 1
        if high - low < min_rows:
            low, high = _with_neighbour(low, lengths)
        count, rows = high - low, max(len(slots), min_rows)
        held = lengths[low:high]
        longest = max(held)
        if longest >= self._pool.capacity:
            raise ValueError(f"a slot of {low}..{high - 1} has no position left: {list(held)}")
        self._ids[:count] = 0  # idle rows feed any valid token
        self._indices[:rows] = slots[0] - low
        for r, row in enumerate(decode):
            self._ids[row.slot - low] = row.token
            self._indices[r] = row.slot - low
        self._seqlens[:count] = held
        self._total[...] = longest + 1
        binding = self._binding(low, high)
        binding.bind_ortvalue_input("input_ids", self._value("row_ids", 0, count))
        return self._execute(binding, rows, self._value("logits", 0, rows))

    def _feed_chunk(self, chunk: PrefillChunk, min_rows: int) -> Binding:
        tokens, start = chunk.tokens, chunk.start
        tokens += tokens[-1:] * (min_rows - len(tokens))
        count = len(tokens)
        if count < 1 or start < 0 or start + count > self._pool.capacity:
            raise ValueError(
                f"{count} tokens at position {start} do not fit a slot of {self._pool.capacity}"
            )
        self._ids[:count] = tokens
        self._seqlens[0] = start + count - 1
        self._total[...] = start + count
        binding = self._binding(chunk.slot, chunk.slot + 1)
        binding.bind_ortvalue_input("input_ids", self._value("chunk_ids", 0, count))
        return binding

    def _execute(self, binding: Binding, rows: int, logits: Value) -> float:
        binding.bind_ortvalue_input("logits_indices", self._value("indices", 0, rows))
        binding.bind_ortvalue_output("logits", logits)
        began = time.perf_counter()
        self._session.run_with_iobinding(binding)
        return time.perf_counter() - began

    def _binding(self, low: int, high: int) -> Binding:
        """Return the binding over the pool's slots `[low, high)`, made once a range."""
        binding = self._bindings.get((low, high))
        if binding is None:
            binding = self._session.io_binding()
            for name, value in self._pool.slots(low, high).items():
                binding.bind_ortvalue_input(f"past_key_values.{name}", value)
                binding.bind_ortvalue_output(f"present.{name}", value)
            binding.bind_ortvalue_input("seqlens_k", self._value("seqlens", 0, high - low))
            binding.bind_ortvalue_input("total_sequence_length", self._total_value)
            self._bindings[low, high] = binding
        return binding

    def _value(self, name: str, start: int, stop: int) -> Value:
        """Return a view of a preallocated array as a value, made once a range."""
        value = self._values.get((name, start, stop))
        if value is None:
            view: npt.NDArray[Any]
            if name == "logits":
                view = self._logits[start:stop]
            elif name == "seqlens":
                view = self._seqlens[start:stop]
            elif name == "indices":
                view = self._indices[start:stop]
            elif name == "row_ids":
                view = self._ids[start:stop, None]
            else:
                view = self._ids[None, start:stop]
            value = self._values[name, start, stop] = value_of(view)
        return value


def _with_neighbour(slot: int, lengths: Sequence[int]) -> tuple[int, int]:
    """Return the range of a slot and the shorter of those beside it.

    That of the slot alone where there is no other: then nothing ever runs beside it.
    """
    others = [other for other in (slot - 1, slot + 1) if 0 <= other < len(lengths)]
    low, *_, last = sorted((slot, min(others, key=lambda other: lengths[other], default=slot)))
    return low, last + 1
