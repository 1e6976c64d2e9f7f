"""The two forms of a measured figure: a series of rounds, and percentiles of many times."""

from __future__ import annotations

from dataclasses import dataclass

REPORTED = ("p50", "p90", "p95", "p99")


@dataclass(frozen=True)
class Series:
    """The median of `n` measurements, the least and the greatest; `spread` is a fraction of it."""

    n: int
    median: float
    low: float
    high: float
    spread: float | None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"has n {self.n}; a figure needs at least one measurement")
        if not self.low <= self.median <= self.high:
            raise ValueError(
                f"has low {self.low:g}, median {self.median:g}, high {self.high:g}; "
                "they must be in this order"
            )

    def scaled(self, factor: float) -> Series:
        """Return the same series in another unit; `factor` is positive."""
        return Series(
            self.n, self.median * factor, self.low * factor, self.high * factor, self.spread
        )


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of `n` times in milliseconds; without a time only `n` is there."""

    n: int
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None

    def __post_init__(self) -> None:
        found = [value for value in self.values if value is not None]
        if self.n < 0 or len(found) != (len(REPORTED) if self.n else 0):
            raise ValueError(
                f"has n {self.n} and {len(found)} percentiles; it must have n at least 0, and "
                f"{', '.join(REPORTED)} unless n is 0"
            )
        if found != sorted(found) or (found and found[0] < 0):
            raise ValueError(f"has percentiles {found}; they must not fall, nor be below 0")

    @property
    def values(self) -> tuple[float | None, ...]:
        """In the order of REPORTED."""
        return self.p50, self.p90, self.p95, self.p99


def require_positive(**figures: Series | float | None) -> None:
    """Raise ValueError for a figure that is 0 or less, where it means a rate, size or time."""
    for name, figure in figures.items():
        least = figure.low if isinstance(figure, Series) else figure
        if least is not None and least <= 0:
            raise ValueError(f"has {name} {least:g}; it must be above 0")
