"""The ONNX Runtime backend: one or two forms of the weights over a cache in numpy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgellama.runtime.backend import Logits
from edgellama.runtime.manifest import EngineError, KvLayout, Manifest
from edgellama.runtime.ort_apart import ApartForm
from edgellama.runtime.ort_cache import CachePool
from edgellama.runtime.ort_mixed import MixedForm
from edgellama.runtime.ort_session import Session, open_session, session_options
from edgellama.runtime.step import DecodeRow, PrefillChunk, Step
from edgellama.runtime.step_parts import split_pinned

NEVER = sys.maxsize  # tokens of a step that there are never
# Tokens of a step with which the two forms are compared at the load, and how often each.
_TRIED, _TRIES = (2, 4, 8, 16, 32, 64), 3
_PINNED_ROWS = 2  # rows of a product at least: see ApartForm


class _Form(Protocol):
    """A form of the weights: it writes the logits of a step to the array of the backend."""

    def run(
        self, decode: Sequence[DecodeRow], chunk: PrefillChunk | None, lengths: Sequence[int]
    ) -> float:
        """Run rows and a chunk; returns the seconds in the session."""

    def run_every(self, chunk: PrefillChunk, logits: Logits) -> float:
        """Run a chunk; `logits` takes those of all its tokens. Returns the seconds."""

    def close(self) -> None:
        """Free the weights."""


class OrtBackend:
    """Owns the pool, a `[slots, kv_heads, capacity, head_dim]` array per key and value, and one or
    two forms of the weights, a session each. What is pinned takes the first form, all else that of
    its number of tokens.

    Past and present of a run are bound to the same memory, views of the pool, so
    GroupQueryAttention appends in place and nothing is copied.
    """

    def __init__(
        self,
        session: Session,
        kv: KvLayout,
        vocab_size: int,
        *,
        is_mixed: bool,
        batch_session: Session | None = None,
    ) -> None:
        self._kv = kv
        self._vocab_size = vocab_size
        self._pool = CachePool(kv)
        self._logits = np.empty((kv.slots + 1, vocab_size), np.float32)
        make = MixedForm if is_mixed else ApartForm
        self._form: _Form = make(session, self._pool, self._logits)
        self._batch_form: _Form | None = None
        self._pinned_form: ApartForm | None = None  # the first of two
        if batch_session is not None:
            assert isinstance(self._form, ApartForm), "the second is mixed, the first another"
            self._pinned_form = self._form
            self._batch_form = MixedForm(batch_session, self._pool, self._logits)
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
        is_mixed = manifest.profile.precision.is_mixed
        second = None
        # The larger form first: opening one takes its weights twice for a while, to pack them.
        if manifest.batch_graph is not None:
            second = open_session(
                directory / manifest.batch_graph, manifest, options, is_mixed=True
            )
        session = open_session(directory / manifest.graph, manifest, options, is_mixed=is_mixed)
        backend = cls(
            session,
            manifest.kv,
            manifest.model.vocab_size,
            is_mixed=is_mixed,
            batch_session=second,
        )
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
    def token_bytes(self) -> int:
        """Bytes that a token takes in the caches of all layers, keys and values."""
        return self._kv.bytes_per_token

    @property
    def run_seconds(self) -> float:
        """Seconds in the session since the load."""
        return self._run_seconds

    def run(self, step: Step) -> Logits:
        """Run one step; returns float32 `[step.num_logits, vocab_size]`, valid until the next."""
        for copy in step.copies:
            self._pool.copy(copy)
        decode, chunk = step.decode, step.prefill
        if self._pinned_form is not None and step.has_pinned:
            return self._run_parts(step, self._pinned_form)
        if decode or chunk is not None:
            tokens = len(decode) + (0 if chunk is None else len(chunk.tokens))
            self._run_seconds += self._form_of(tokens).run(decode, chunk, step.lengths)
        return self._logits[: step.num_logits]

    def run_tokens(
        self, slot: int, tokens: Sequence[int], start: int, *, is_pinned: bool = False
    ) -> Logits:
        """Feed `tokens` to `slot` at `start` as one chunk; logits `[len(tokens), vocab_size]`.

        The caller owns the slot: its positions `[0, start)` must be valid, and those of
        `[start, start + len(tokens))` are valid afterwards. `is_pinned` takes the first form.
        """
        chunk = PrefillChunk(slot, tuple(tokens), start, is_last=True)
        logits = np.empty((len(tokens), self._vocab_size), np.float32)
        if is_pinned and self._pinned_form is not None:
            seconds = self._pinned_form.run_every(chunk, logits, min_rows=_PINNED_ROWS)
        else:
            seconds = self._form_of(len(tokens)).run_every(chunk, logits)
        self._run_seconds += seconds
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
        self._pool.clear()

    def _run_parts(self, step: Step, first: ApartForm) -> Logits:
        """Run what is pinned with the first form, the rest with that of its own number of tokens.

        Of the step's logits each part's are put in their places; as `run`.
        """
        pinned, rest = split_pinned(step)
        if not rest.tokens or self._form_of(rest.tokens) is self._form:
            self._run_seconds += first.run(
                step.decode, step.prefill, step.lengths, min_rows=_PINNED_ROWS
            )
            return self._logits[: step.num_logits]
        ordered = np.empty((step.num_logits, self._vocab_size), np.float32)
        self._run_seconds += first.run(
            pinned.decode, pinned.prefill, pinned.lengths, min_rows=_PINNED_ROWS
        )
        ordered[list(pinned.places)] = self._logits[: len(pinned.places)]
        form = self._form_of(rest.tokens)
        self._run_seconds += form.run(rest.decode, rest.prefill, rest.lengths)
        ordered[list(rest.places)] = self._logits[: len(rest.places)]
        return ordered

    def _form_of(self, tokens: int) -> _Form:
        if tokens < self._batch_from:
            return self._form
        assert self._batch_form is not None, "only an engine with both has a limit"
        return self._batch_form

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
