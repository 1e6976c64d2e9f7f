"""The percentiles that are reported of a series of times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

REPORTED = (50, 90, 95, 99)


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float | int]:
    """Return `n`, `p50`, `p90`, `p95`, `p99` in milliseconds; only `n` for an empty series."""
    if not seconds:
        return {"n": 0}
    values = np.percentile(np.asarray(seconds) * 1e3, REPORTED)
    named = {f"p{q}": round(float(v), 3) for q, v in zip(REPORTED, values, strict=True)}
    return {"n": len(seconds), **named}
