"""Prefixes of the pool on a GPU, kept in the memory of the host."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgellama.runtime.allocations import Allocations
from edgellama.runtime.device import Device
from edgellama.runtime.device_pool import DevicePool
from edgellama.runtime.step import PrefixDrop, PrefixRestore, PrefixSave


class DeviceStore:
    """A `[caches, kv_heads, bytes]` array an entry, in memory that is not pinned.

    Copies go one cache after the other through pinned memory of one slot of one cache, which is
    taken with the first of them. Each waits for the stream, before that memory is used again.
    """

    def __init__(
        self, device: Device, stream: int, allocations: Allocations, pool: DevicePool
    ) -> None:
        self._device = device
        self._stream = stream
        self._allocations = allocations
        self._pool = pool
        self._pinned: npt.NDArray[np.uint8] | None = None
        self._saved: dict[int, npt.NDArray[np.uint8]] = {}

    def copy(self, copy: PrefixSave | PrefixRestore | PrefixDrop) -> None:
        """Save or restore the first positions of a slot, or drop an entry."""
        if isinstance(copy, PrefixSave):
            self._save(copy)
        elif isinstance(copy, PrefixRestore):
            self._restore(copy)
        else:
            self._saved.pop(copy.entry, None)

    def _save(self, copy: PrefixSave) -> None:
        pool, size = self._pool, self._pool.prefix_bytes(copy.length)
        heads = len(pool.prefixes(0, copy.slot))
        staging = self._staging(heads, size)
        saved = np.empty((pool.caches, heads, size), np.uint8)
        for cache in range(pool.caches):
            for row, address in zip(staging, pool.prefixes(cache, copy.slot), strict=True):
                self._device.copy_to_host(row.ctypes.data, address, size, self._stream)
            self._device.synchronize(self._stream)
            saved[cache] = staging
        self._saved[copy.entry] = saved

    def _restore(self, copy: PrefixRestore) -> None:
        pool, size = self._pool, self._pool.prefix_bytes(copy.length)
        saved = self._saved[copy.entry]
        staging = self._staging(saved.shape[1], size)
        for cache in range(pool.caches):
            staging[:] = saved[cache, :, :size]
            for row, address in zip(staging, pool.prefixes(cache, copy.slot), strict=True):
                self._device.copy_to_device(address, row.ctypes.data, size, self._stream)
            self._device.synchronize(self._stream)

    def _staging(self, heads: int, size: int) -> npt.NDArray[np.uint8]:
        """Return pinned memory `[heads, size]`."""
        if self._pinned is None:
            self._pinned = self._allocations.pinned(self._pool.slot_bytes)
        return self._pinned[: heads * size].reshape(heads, size)
