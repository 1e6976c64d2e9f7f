"""All memory that one engine takes from a device, given back together."""

from __future__ import annotations

import ctypes
from contextlib import ExitStack

import numpy as np
import numpy.typing as npt

from edgellama.runtime.device import ALIGNMENT, Device


def aligned(size: int) -> int:
    """Round `size` up so that what follows is aligned too; at least one unit."""
    return max(-(-size // ALIGNMENT), 1) * ALIGNMENT


class Allocations:
    """Memory of the GPU and pinned memory; `close` frees all of it, the last one first."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._owned = ExitStack()

    def on_device(self, size: int) -> int:
        """Return the address of `size` bytes on the GPU."""
        address = self._device.allocate(aligned(size))
        self._owned.callback(self._device.free, address)
        return address

    def pinned(self, size: int) -> npt.NDArray[np.uint8]:
        """Return `size` pinned bytes, all zero; the array must not be used after `close`."""
        address = self._device.allocate_pinned(aligned(size))
        self._owned.callback(self._device.free_pinned, address)
        array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        array[:] = 0
        return array

    def close(self) -> None:
        """Free everything; again does nothing."""
        self._owned.close()
