"""One form of an engine's weights: a session of ONNX Runtime, and what is bound to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgellama.runtime.ort_cache import CachePool
from edgellama.runtime.ort_feeds import Range, StepFeeds, StepShape
from edgellama.runtime.ort_session import Binding, Session, Value
from edgellama.runtime.step import PrefillChunk


class Form:
    """A session and what is bound to it: one form of the weights."""

    def __init__(self, session: Session, pool: CachePool) -> None:
        self._session: Any = session
        self._pool = pool
        self._bindings: dict[Range | None, _Binding] = {}

    def bind(
        self,
        feeds: StepFeeds,
        shape: StepShape,
        chunk: PrefillChunk | None,
        wanted: int,
        logits: Value,
    ) -> Binding:
        """Bind what differs from the last step over the same rows."""
        bound = self._bindings.get(shape.rows)
        if bound is None:
            bound = _Binding(self._session.io_binding(), self._pool, shape.rows)
            self._bindings[shape.rows] = bound
        bound.set_chunk(self._pool, None if chunk is None else chunk.slot)
        sizes = (shape.tokens, shape.chunk, wanted)
        if bound.sizes != sizes:
            for name, value in feeds.values(shape, wanted):
                bound.binding.bind_ortvalue_input(name, value)
            bound.sizes = sizes
        bound.binding.bind_ortvalue_output("logits", logits)
        return bound.binding

    def run(self, binding: Binding) -> None:
        """Run what is bound."""
        self._session.run_with_iobinding(binding)

    def close(self) -> None:
        """Free the weights."""
        self._bindings.clear()
        self._session = None


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
