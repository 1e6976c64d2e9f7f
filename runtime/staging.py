"""The inputs and the logits of a run, in pinned memory and on the GPU."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgellama.runtime.allocations import Allocations, aligned
from edgellama.runtime.backend import Logits
from edgellama.runtime.device import Device

_ID_BYTES = 8  # int64


class InputStaging:
    """The four small inputs of one kind of run, packed: a single copy brings them to the GPU.

    `arrays` are the flat int64 parts in pinned memory, as large as the largest run; `addresses`
    are where they arrive. A run must not fill them again before the stream was synchronised.
    """

    def __init__(self, allocations: Allocations, *, tokens: int, batch: int, rows: int) -> None:
        counts = {
            "input_ids": tokens,
            "position_ids": tokens,
            "write_indices": batch,
            "logits_indices": rows,
        }
        self.bytes = sum(aligned(_ID_BYTES * count) for count in counts.values())
        pinned = allocations.pinned(self.bytes)
        self._host = pinned.ctypes.data
        self._device = allocations.on_device(self.bytes)
        self.arrays: dict[str, npt.NDArray[np.int64]] = {}
        self.addresses: dict[str, int] = {}
        offset = 0
        for name, count in counts.items():
            self.arrays[name] = pinned[offset : offset + _ID_BYTES * count].view(np.int64)
            self.addresses[name] = self._device + offset
            offset += aligned(_ID_BYTES * count)

    def upload(self, device: Device, stream: int) -> None:
        """Enqueue the copy to the GPU."""
        device.copy_to_device(self._device, self._host, self.bytes, stream)


class LogitsStaging:
    """Float32 logits `[rows, vocab_size]`: on the GPU for decode and for a chunk, and as read."""

    def __init__(self, allocations: Allocations, *, slots: int, vocab_size: int) -> None:
        self._row_bytes = 4 * vocab_size
        size = slots * self._row_bytes  # a chunk has as many rows when it is evaluated
        self.decode_address = allocations.on_device(size)
        self.chunk_address = allocations.on_device(size)
        pinned = allocations.pinned(size + self._row_bytes)  # every slot's row and the chunk's
        self.host: Logits = pinned.view(np.float32).reshape(slots + 1, vocab_size)

    def download(self, device: Device, stream: int, address: int, rows: int, at: int) -> None:
        """Enqueue the copy of the first `rows` at `address` to the rows from `at` on."""
        host = self.host.ctypes.data + at * self._row_bytes
        device.copy_to_host(host, address, rows * self._row_bytes, stream)

    @staticmethod
    def device_bytes(slots: int, vocab_size: int) -> int:
        """Return the bytes that it takes on the GPU."""
        return 2 * aligned(4 * slots * vocab_size)
