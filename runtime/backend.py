"""What an engine backend must do: one protocol for every runtime library."""

from __future__ import annotations

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

    def run(self, step: Step) -> Logits:
        """Run one step; returns float32 `[step.num_logits, vocab_size]`, valid until the next."""

    def close(self) -> None:
        """Free the weights and the pool."""
