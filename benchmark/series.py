"""Several measurements of one thing as one figure: median, spread, number."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

# Digits that are kept: more than a measurement has.
_DIGITS = 6


def series(values: Sequence[float]) -> dict[str, Any]:
    """Return `n`, `median`, `low` and `high` (the least and the greatest) and `spread`.

    `spread` is (high - low) / median, None where the median is 0. Raises ValueError for no value.
    """
    if not values:
        raise ValueError("no value was measured")
    middle, low, high = median(values), min(values), max(values)
    return {
        "n": len(values),
        "median": _rounded(middle),
        "low": _rounded(low),
        "high": _rounded(high),
        "spread": round((high - low) / middle, 4) if middle else None,
    }


def ratio(values: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    """Return the series of value / other, pair by pair: both were measured in the same round."""
    return series([value / other for value, other in zip(values, others, strict=True)])


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
