"""The peak memory of this process."""

from __future__ import annotations

import resource


def peak_rss_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
