"""Where the time of the engine's thread goes: one clock, read between the parts of a step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class StepSeconds:
    """Totals in seconds since the load, of the parts of all steps.

    `schedule`: admission, choice of the step, update. `backend`: the step of the model with its
    inputs. `sample`: from logits to tokens. `detokenise`: from tokens to text and stop rules.
    `deliver`: the listeners, and the ends.
    """

    schedule: float = 0.0
    backend: float = 0.0
    sample: float = 0.0
    detokenise: float = 0.0
    deliver: float = 0.0

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time of a block to a part, also when it raises."""
        began = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, part, getattr(self, part) + time.perf_counter() - began)
