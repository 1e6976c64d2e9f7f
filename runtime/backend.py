"""What an engine backend must do: one protocol for every runtime library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgellama.runtime.step import Step

Logits = npt.NDArray[np.float32]


class Backend(Protocol):
    """Owns the weights and the KV pool `[slots, kv_heads, capacity, head_dim]` of every layer."""

    @property
    def slots(self) -> int:
        """Sequences that fit at once."""

    @property
    def capacity(self) -> int:
        """Tokens a slot holds."""

    @property
    def vocab_size(self) -> int:
        """Columns of the logits."""

    @property
    def token_bytes(self) -> int:
        """Bytes that a token takes in the caches of all layers, keys and values."""

    @property
    def run_seconds(self) -> float:
        """Seconds since the load in which the library ran the model, without binding inputs."""

    def run(self, step: Step) -> Logits:
        """Run one step; returns float32 `[step.num_logits, vocab_size]`, valid until the next."""

    def close(self) -> None:
        """Free the weights and the pool."""


class ScoringBackend(Backend, Protocol):
    """A backend that can also be evaluated: it gives the logits of every token."""

    def run_tokens(
        self, slot: int, tokens: Sequence[int], start: int, *, is_pinned: bool = False
    ) -> Logits:
        """Feed `tokens` to `slot` at `start` as one chunk; logits `[len(tokens), vocab_size]`.

        The caller owns the slot: its positions `[0, start)` must be valid, and those of
        `[start, start + len(tokens))` are valid afterwards. `is_pinned` as of a `PrefillChunk`.
        """
