"""How much of the host's memory the prefixes may take that no slot has room for."""

from __future__ import annotations

import os

from edgellama.runtime.backend import Backend
from edgellama.runtime.manifest import EngineError
from edgellama.runtime.prefix import SHORTEST
from edgellama.runtime.prefix_store import PrefixStore

_MIB = 1 << 20


def make_prefix_store(mib: int, backend: Backend) -> PrefixStore:
    """Return a store of `mib` MiB for the caches of a backend; 0 keeps nothing.

    Raises EngineError for a size that holds no prefix, or more than the machine has.
    """
    if mib == 0:
        return PrefixStore()
    least = -(-SHORTEST * backend.token_bytes // _MIB)
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MIB
    if not least <= mib <= most:
        raise EngineError(
            f"limits.prefix_store_mib is {mib}; it must be 0, which keeps nothing, or from "
            f"{least}, which is room for a prefix of {SHORTEST} tokens of {backend.token_bytes} "
            f"bytes, to {most}, the memory of this machine"
        )
    return PrefixStore(mib * _MIB, backend.token_bytes)
