"""How long a refused client should wait before it tries again."""

from __future__ import annotations

_FIRST = 1.0  # before any request has finished
_SHORTEST, _LONGEST = 0.1, 60.0
_WEIGHT = 0.2  # of the newest observation


class RetryDelay:
    """Mean time between two places coming free: a request's mean duration over the slots."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._mean: float | None = None

    def observe(self, generating_seconds: float) -> None:
        """Take the time one finished request held a slot."""
        if self._mean is None:
            self._mean = generating_seconds
        else:
            self._mean += _WEIGHT * (generating_seconds - self._mean)

    @property
    def seconds(self) -> float:
        """The advice now."""
        if self._mean is None:
            return _FIRST
        return min(max(self._mean / self._slots, _SHORTEST), _LONGEST)
