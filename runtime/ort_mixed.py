"""A graph that computes the rows and the chunk of a step together, and what is bound to it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from edgellama.runtime.backend import Logits
from edgellama.runtime.ort_cache import CachePool
from edgellama.runtime.ort_feeds import Range, StepFeeds, StepShape
from edgellama.runtime.ort_session import Binding, Session, Value, value_of
from edgellama.runtime.step import DecodeRow, PrefillChunk


class MixedForm:
    """Past and present of the rows are a view of the pool over the smallest range of slots
    `[low, high)` that holds them, those of the chunk a view of its slot.

    An idle slot inside the range writes at `lengths[slot]`, which its next chunk overwrites before
    anything reads it. If the chunk's own slot lies inside, its row repeats the chunk's first token:
    both write the same. Rows or a chunk that a step lacks have a spare cache of one position, which
    nobody reads.
    """

    def __init__(self, session: Session, pool: CachePool, logits: Logits) -> None:
        self._session: Any = session
        self._pool = pool
        self._logits = logits
        self._feeds = StepFeeds(pool.slots_in_all, pool.capacity)
        self._bindings: dict[Range | None, _Binding] = {}
        self._values: dict[int, Value] = {}

    def run(
        self, decode: Sequence[DecodeRow], chunk: PrefillChunk | None, lengths: Sequence[int]
    ) -> float:
        """Run a step; returns the seconds in the session.

        The logits of the rows, and behind them of the chunk's last token, are then in the array.
        Of a step without rows whose chunk is not the last they are computed and dropped: reductions
        over an empty batch (dynamic quantisation in front of the head) do not work.
        """
        wanted = len(decode) + int(chunk is not None and (chunk.is_last or not decode))
        value = self._values.get(wanted)
        if value is None:
            value = self._values[wanted] = value_of(self._logits[:wanted])
        shape = self._feeds.fill(decode, chunk, lengths)
        self._feeds.want_last(len(decode), wanted, shape.tokens)
        return self._execute(shape, chunk, wanted, value)

    def run_every(self, chunk: PrefillChunk, logits: Logits) -> float:
        """Run a chunk alone; `logits` takes those of all its tokens. Returns the seconds."""
        shape = self._feeds.fill((), chunk, ())
        self._feeds.want_all(shape.tokens)
        return self._execute(shape, chunk, shape.tokens, value_of(logits))

    def close(self) -> None:
        """Free the weights."""
        self._bindings.clear()
        self._values.clear()
        self._session = None

    def _execute(
        self, shape: StepShape, chunk: PrefillChunk | None, wanted: int, logits: Value
    ) -> float:
        """Bind what differs from the last step over the same rows, and run."""
        bound = self._bindings.get(shape.rows)
        if bound is None:
            bound = _Binding(self._session.io_binding(), self._pool, shape.rows)
            self._bindings[shape.rows] = bound
        bound.set_chunk(self._pool, None if chunk is None else chunk.slot)
        sizes = (shape.tokens, shape.chunk, wanted)
        if bound.sizes != sizes:
            for name, value in self._feeds.values(shape, wanted):
                bound.binding.bind_ortvalue_input(name, value)
            bound.sizes = sizes
        bound.binding.bind_ortvalue_output("logits", logits)
        began = time.perf_counter()
        self._session.run_with_iobinding(bound.binding)
        return time.perf_counter() - began


class _Binding:
    """One binding over the rows of a range; what is bound besides them, to bind it once."""

    def __init__(self, binding: Binding, pool: CachePool, rows: Range | None) -> None:
        self.binding = binding
        self.sizes: tuple[int, int, int] | None = None
        self._chunk_slot: int | None = -1  # neither a slot nor the spare
        self._bind("", pool.spare() if rows is None else pool.slots(*rows))

    def set_chunk(self, pool: CachePool, slot: int | None) -> None:
        """Let the chunk write to `slot`, or to the spare cache."""
        if slot == self._chunk_slot:
            return
        self._bind("chunk_", pool.spare() if slot is None else pool.slots(slot, slot + 1))
        self._chunk_slot = slot

    def _bind(self, prefix: str, values: Mapping[str, Value]) -> None:
        for name, value in values.items():
            self.binding.bind_ortvalue_input(f"{prefix}past_key_values.{name}", value)
            self.binding.bind_ortvalue_output(f"{prefix}present.{name}", value)
