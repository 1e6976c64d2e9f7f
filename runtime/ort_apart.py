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
        self, decode: Sequence[DecodeRow], chunk: PrefillChunk | None, lengths: Sequence[int]
    ) -> float:
        """Run a step; returns the seconds in the session.

        The logits of the rows, and behind them of the chunk's last token, are then in the array.
        Those of the chunk are computed and dropped when it is not the last: asking for no row works
        with MatMul and MatMulNBits, but reductions over an empty batch (dynamic quantisation in
        front of the head) do not.
        """
        seconds = 0.0
        if decode:  # an empty batch would kill the process inside GroupQueryAttention
            seconds += self._run_rows(decode, lengths)
        if chunk is not None:
            row = len(decode)
            self._indices[0] = len(chunk.tokens) - 1
            binding = self._feed_chunk(chunk)
            seconds += self._execute(binding, 1, self._value("logits", row, row + 1))
        return seconds

    def run_every(self, chunk: PrefillChunk, logits: Logits) -> float:
        """Run a chunk alone; `logits` takes those of all its tokens. Returns the seconds."""
        count = len(chunk.tokens)
        self._indices[:count] = np.arange(count)
        return self._execute(self._feed_chunk(chunk), count, value_of(logits))

    def close(self) -> None:
        """Free the weights."""
        self._bindings.clear()
        self._values.clear()
        self._session = None

    def _run_rows(self, decode: Sequence[DecodeRow], lengths: Sequence[int]) -> float:
        """Run `[high - low, 1]` tokens; row r of the logits belongs to `decode[r]`."""
        slots = [row.slot for row in decode]
        low, high = min(slots), max(slots) + 1
        count, rows = high - low, len(slots)
        held = lengths[low:high]
        longest = max(held)
        if longest >= self._pool.capacity:
            raise ValueError(f"a slot of {low}..{high - 1} has no position left: {list(held)}")
        self._ids[:count] = 0  # idle rows feed any valid token
        for r, row in enumerate(decode):
            self._ids[row.slot - low] = row.token
            self._indices[r] = row.slot - low
        self._seqlens[:count] = held
        self._total[...] = longest + 1
        binding = self._binding(low, high)
        binding.bind_ortvalue_input("input_ids", self._value("row_ids", 0, count))
        return self._execute(binding, rows, self._value("logits", 0, rows))

    def _feed_chunk(self, chunk: PrefillChunk) -> Binding:
        count, start = len(chunk.tokens), chunk.start
        if count < 1 or start < 0 or start + count > self._pool.capacity:
            raise ValueError(
                f"{count} tokens at position {start} do not fit a slot of {self._pool.capacity}"
            )
        self._ids[:count] = chunk.tokens
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
