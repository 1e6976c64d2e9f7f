"""Whether the memory of a GPU holds an engine, asked before anything is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgellama.runtime.device_pool import pool_bytes
from edgellama.runtime.manifest import EngineError, KvLayout

_GIB = 1024**3


def require_memory(
    directory: Path, kv: KvLayout, available: int, needs: Mapping[str, int], gpu: str
) -> None:
    """Raise EngineError unless `needs` (bytes by what for) and the KV pool are available.

    The error says which capacity would fit.
    """
    pool = pool_bytes(kv)
    fixed = sum(needs.values())
    if pool + fixed <= available:
        return
    parts = {**needs, "KV pool": pool}
    listed = ", ".join(f"{what} {size / _GIB:.2f}" for what, size in parts.items())
    capacity = (available - fixed) // (kv.slots * kv.bytes_per_token)
    if capacity >= 2:
        advice = f"free memory, or build it with limits.capacity {capacity} or fewer slots"
    else:
        advice = "free memory, or build it for a smaller model or precision"
    raise EngineError(
        f"engine {directory} needs {(pool + fixed) / _GIB:.2f} GiB of {gpu} ({listed}), but "
        f"{available / _GIB:.2f} are free; {advice}"
    )
