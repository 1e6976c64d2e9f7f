"""The ONNX Runtime backend: running rows and a chunk in one step of one graph, KV in numpy."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellama.runtime.backend import Logits
from edgellama.runtime.manifest import EngineError, KvLayout, Manifest
from edgellama.runtime.ort_cache import CachePool
from edgellama.runtime.ort_feeds import StepFeeds, StepShape
from edgellama.runtime.ort_form import Form
from edgellama.runtime.ort_session import Session, Value, open_session, session_options, value_of
from edgellama.runtime.step import PrefillChunk, Step

NEVER = sys.maxsize  # tokens of a step that there are never
# Tokens of a step with which the two forms are compared at the load, and how often each.
_TRIED, _TRIES = (2, 4, 8, 16, 32, 64), 3


class OrtBackend:
    """Owns a session and the pool: a `[slots, kv_heads, capacity, head_dim]` array per key, value.

    Past and present of a run are bound to the same memory, so GroupQueryAttention appends in place
    and nothing is copied: of the rows to a view of the pool over a range of slots `[low, high)`, of
    the chunk to a view of its slot. A step takes the smallest range that holds its rows; an idle
    slot inside writes at `lengths[slot]`, which its next chunk overwrites before anything reads it.
    If the chunk's own slot lies inside, its row repeats the chunk's first token: both write the
    same. Rows or a chunk that a step lacks have a spare cache of one position, which nobody reads.
    """

    def __init__(
        self,
        session: Session,
        kv: KvLayout,
        vocab_size: int,
        batch_session: Session | None = None,
    ) -> None:
        self._kv = kv
        self._vocab_size = vocab_size
        self._pool = CachePool(kv)
        self._feeds = StepFeeds(kv.slots, kv.capacity)
        self._logits = np.empty((kv.slots + 1, vocab_size), np.float32)
        self._logits_values: dict[int, Value] = {}
        self._form = Form(session, self._pool)
        self._batch_form = None if batch_session is None else Form(batch_session, self._pool)
        self._batch_from = NEVER
        self._run_seconds = 0.0

    @classmethod
    def load(
        cls,
        directory: Path,
        manifest: Manifest,
        *,
        threads: int | None = None,
        batch_from: int | None = None,
    ) -> OrtBackend:
        """Open the graphs of an engine directory; `threads` None takes `device.threads`.

        Of an engine with two forms of weights, steps of `batch_from` tokens and more take the
        second; None measures here from how many on it is faster.
        Raises EngineError when a graph is unreadable or is not what the manifest says.
        """
        options = session_options(directory, manifest, threads)
        session = open_session(directory, manifest.graph, manifest, options)
        second = None
        if manifest.batch_graph is not None:
            second = open_session(directory, manifest.batch_graph, manifest, options)
        backend = cls(session, manifest.kv, manifest.model.vocab_size, second)
        if second is not None:
            backend._batch_from = backend._crossover() if batch_from is None else batch_from
        elif batch_from is not None:
            raise EngineError(
                f"batch_from is {batch_from}, but engine {directory} has one form of weights; "
                "leave it out, or build it with precision.batch_weights"
            )
        return backend

    @property
    def slots(self) -> int:
        """Sequences that fit at once."""
        return self._kv.slots

    @property
    def capacity(self) -> int:
        """Tokens a slot holds."""
        return self._kv.capacity

    @property
    def vocab_size(self) -> int:
        """Columns of the logits."""
        return self._vocab_size

    @property
    def run_seconds(self) -> float:
        """Seconds in the session since the load."""
        return self._run_seconds

    def run(self, step: Step) -> Logits:
        """Run one step; returns float32 `[step.num_logits, vocab_size]`, valid until the next.

        Of a step without running rows whose chunk is not the last, the logits of the chunk's last
        token are computed and dropped: reductions over an empty batch (dynamic quantisation in
        front of the head) do not work.
        """
        for copy in step.copies:
            self._pool.copy(copy)
        decode, chunk = step.decode, step.prefill
        if decode or chunk is not None:
            wanted = step.num_logits or 1
            value = self._logits_values.get(wanted)
            if value is None:
                value = value_of(self._logits[:wanted])
                self._logits_values[wanted] = value
            shape = self._feeds.fill(decode, chunk, step.lengths)
            self._feeds.want_last(len(decode), wanted, shape.tokens)
            self._execute(shape, chunk, wanted, value)
        return self._logits[: step.num_logits]

    def run_tokens(self, slot: int, tokens: Sequence[int], start: int) -> Logits:
        """Feed `tokens` to `slot` at `start` as one chunk; logits `[len(tokens), vocab_size]`.

        The caller owns the slot: its positions `[0, start)` must be valid, and those of
        `[start, start + len(tokens))` are valid afterwards.
        """
        count = len(tokens)
        chunk = PrefillChunk(slot, tuple(tokens), start, is_last=True)
        shape = self._feeds.fill((), chunk, ())
        self._feeds.want_all(count)
        logits = np.empty((count, self._vocab_size), np.float32)
        self._execute(shape, chunk, count, value_of(logits))
        return logits

    def cache(self, slot: int, length: int) -> dict[str, npt.NDArray[Any]]:
        """Return views `[kv_heads, length, head_dim]` of a slot's cache, by `LAYER.key|value`."""
        return self._pool.read(slot, length)

    @property
    def batch_from(self) -> int:
        """Tokens of a step from which on it takes the second form of the weights, or NEVER."""
        return self._batch_from

    @batch_from.setter
    def batch_from(self, tokens: int) -> None:
        if self._batch_form is None and tokens != NEVER:
            raise ValueError(f"batch_from is {tokens}; there is one form of weights")
        self._batch_from = tokens

    def close(self) -> None:
        """Free the weights and the pool; the backend cannot run afterwards."""
        self._form.close()
        if self._batch_form is not None:
            self._batch_form.close()
        self._logits_values.clear()
        self._pool.clear()

    def _execute(
        self, shape: StepShape, chunk: PrefillChunk | None, wanted: int, logits: Value
    ) -> None:
        form = self._form
        if shape.tokens >= self._batch_from:
            assert self._batch_form is not None, "only an engine with both has a limit"
            form = self._batch_form
        binding = form.bind(self._feeds, shape, chunk, wanted, logits)
        began = time.perf_counter()
        form.run(binding)
        self._run_seconds += time.perf_counter() - began

    def _crossover(self) -> int:
        """Return the least of _TRIED tokens that the second form computes faster, or NEVER.

        Chunks of a slot that nobody holds yet. The forms take turns, and the least time of each
        counts: what else the machine does only adds.
        """
        for tokens in _TRIED:
            if tokens > self.capacity:
                break
            least: dict[int, float] = {}
            for trial in range(_TRIES + 1):
                for limit in (NEVER, 1):
                    self._batch_from = limit
                    before = self._run_seconds
                    self.run(_trial(tokens, self.slots))
                    seconds = self._run_seconds - before
                    if trial:  # the first of a size reserves its memory
                        least[limit] = min(seconds, least.get(limit, seconds))
            if least[1] < least[NEVER]:
                return tokens
        return NEVER


def _trial(tokens: int, slots: int) -> Step:
    chunk = PrefillChunk(0, (0,) * tokens, 0, is_last=False)
    return Step((), chunk, (0,) * slots)
