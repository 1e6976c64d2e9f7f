"""When the requests of an open loop are sent: fixed beforehand, whatever the server does."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


class ArrivalsError(ValueError):
    """A rate, a duration or a burstiness that makes no arrivals."""


@dataclass(frozen=True)
class Arrivals:
    """`rate` requests/s on average for `seconds`; `seed` fixes the times.

    The gaps are gamma distributed with the shape `burstiness` and the mean 1 / rate. Shape 1 is the
    exponential distribution, a Poisson process; below 1 requests come in bursts: the variance of a
    gap is 1 / (burstiness rate^2).
    """

    rate: float
    seconds: float
    burstiness: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rate", "seconds", "burstiness"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ArrivalsError(f"{name} is {value!r}; it must be > 0 and finite")

    @property
    def process(self) -> str:
        """The name of the process in a report."""
        return "poisson" if self.burstiness == 1 else "gamma"

    def times(self) -> tuple[float, ...]:
        """Return the rising send times in [0, seconds); there may be none at a low rate."""
        draw = random.Random(self.seed)
        scale = 1 / (self.rate * self.burstiness)
        times = []
        now = draw.gammavariate(self.burstiness, scale)
        while now < self.seconds:
            times.append(now)
            now += draw.gammavariate(self.burstiness, scale)
        return tuple(times)
