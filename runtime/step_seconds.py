"""Where the time of the engine's thread goes: one clock, read between the parts of a step."""

from __future__ import annotations

import time
from dataclasses import dataclass

from edgellama.runtime.step_record import StepParts


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


class StepClock:
    """Reads the clock between the parts of one step, adds them to the totals and keeps them."""

    def __init__(self, totals: StepSeconds) -> None:
        self._totals = totals
        self._seconds: dict[str, float] = {}
        self.began = self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """End a part, one of the fields of StepParts; the next begins."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._seconds[part] = seconds
        total = "schedule" if part == "update" else part
        setattr(self._totals, total, getattr(self._totals, total) + seconds)

    @property
    def seconds(self) -> float:
        """Seconds from the beginning of the step to the last lap."""
        return self._last - self.began

    def parts(self) -> StepParts:
        """Return the seconds of all parts, after the last lap."""
        return StepParts(**self._seconds)
