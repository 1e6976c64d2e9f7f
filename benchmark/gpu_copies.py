"""Check `cuda`: what the runtime asks of a GPU, and how fast its memory copies."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellama.benchmark.check import Job
from edgellama.benchmark.outcome import CheckFailed
from edgellama.runtime.allocations import Allocations
from edgellama.runtime.device import ALIGNMENT, Device

Bytes = npt.NDArray[np.uint8]
# Far above any cache of a GPU (the largest have 128 MB), or the copy would not reach the memory.
LARGEST = 256 << 20
_SHARE = 8  # of the free memory that a buffer may take: a Jetson has little
_COPIES = 20  # enqueued at once, so that starting them takes no time beside them
_ROUNDS = 5
_SEED = 2026


def copy_gb_s(size: int, copies: int, seconds: float) -> float:
    """Return 10^9 bytes a second through the memory: a copy reads and writes each byte once."""
    return 2 * size * copies / seconds / 1e9


@dataclass(frozen=True)
class _Buffers:
    """Two buffers of the GPU and two of the host, all of `size` bytes, and a stream."""

    device: Device
    size: int
    stream: int
    one: int
    other: int
    sent: Bytes
    back: Bytes

    def upload(self) -> None:
        self.device.copy_to_device(self.one, self.sent.ctypes.data, self.size, self.stream)

    def download(self, address: int) -> Bytes:
        """Return what lies at an address once all that was enqueued has happened."""
        self.back[:] = 0x5A
        self.device.copy_to_host(self.back.ctypes.data, address, self.size, self.stream)
        self.device.synchronize(self.stream)
        return self.back


def check_cuda(_job: Job) -> dict[str, Any]:
    """Check the first GPU and measure it."""
    from edgellama.runtime.cuda import Cuda

    return check_device(Cuda())


def check_device(device: Device, *, largest: int = LARGEST) -> dict[str, Any]:
    """Return the proofs and the measured bandwidths; raises CheckFailed that names what is wrong.

    The buffers have `largest` bytes, or an eighth of the free memory where that is less.
    """
    size = min(largest, device.available_memory() // _SHARE) // ALIGNMENT * ALIGNMENT
    stream = device.create_stream()
    memory = Allocations(device)
    try:
        one, other = memory.on_device(size), memory.on_device(size)
        sent, back = memory.pinned(size), memory.pinned(size)
        buffers = _Buffers(device, size, stream, one, other, sent, back)
        for address in (one, other):
            _require(address % ALIGNMENT == 0, f"an allocation lies at {address:#x}, not aligned")
        np.copyto(sent, np.random.default_rng(_SEED).integers(0, 256, size, np.uint8))
        for proof in (_copies, _clears, _keeps_order, _captures):
            proof(buffers)
        return {"proved": PROOFS, "buffer_bytes": size, **_bandwidths(buffers)}
    finally:
        device.synchronize(stream)
        memory.close()
        device.destroy_stream(stream)


PROOFS = [
    "aligned allocations",
    "pinned copies both ways and a copy on the GPU",
    "memory is cleared",
    "a stream keeps its order",
    "a captured graph runs when it is launched, as often as it is launched",
]


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise CheckFailed(what)


def _same(one: Bytes, other: Bytes, what: str) -> None:
    wrong = int(np.count_nonzero(one != other))
    _require(wrong == 0, f"{what}: {wrong} of {one.size} bytes are wrong")


def _copies(b: _Buffers) -> None:
    b.upload()
    b.device.copy(b.other, b.one, b.size, b.stream)
    _same(b.download(b.other), b.sent, "host to GPU to GPU to host")


def _clears(b: _Buffers) -> None:
    b.device.clear(b.other, b.size, b.stream)
    _same(b.download(b.other), np.zeros_like(b.sent), "cleared memory")


def _keeps_order(b: _Buffers) -> None:
    """Enqueue at once what gives another result in any other order."""
    b.device.clear(b.one, b.size, b.stream)
    b.upload()
    b.device.copy(b.other, b.one, b.size, b.stream)
    b.device.clear(b.one, b.size, b.stream)
    _same(b.download(b.other), b.sent, "a copy between an upload and a clearing")
    _same(b.download(b.one), np.zeros_like(b.sent), "a clearing behind a copy")


def _captures(b: _Buffers) -> None:
    b.upload()
    b.device.clear(b.other, b.size, b.stream)
    b.device.synchronize(b.stream)
    graph = b.device.capture(b.stream, lambda: b.device.copy(b.other, b.one, b.size, b.stream))
    try:
        _same(b.download(b.other), np.zeros_like(b.sent), "a copy that was only captured")
        b.device.launch(graph, b.stream)
        _same(b.download(b.other), b.sent, "a launched copy")
        b.device.clear(b.one, b.size, b.stream)
        b.device.launch(graph, b.stream)
        _same(b.download(b.other), np.zeros_like(b.sent), "a copy that was launched again")
    finally:
        b.device.synchronize(b.stream)
        b.device.destroy_graph(graph)


def _bandwidths(b: _Buffers) -> dict[str, float]:
    """Return 10^9 bytes a second of each kind of copy, the best of some rounds.

    On the GPU each byte is counted twice, once read and once written; over the bus once.
    """
    host = b.sent.ctypes.data
    kinds: dict[str, tuple[float, Callable[[], None]]] = {
        "copy_gb_s": (1.0, lambda: b.device.copy(b.other, b.one, b.size, b.stream)),
        "to_device_gb_s": (0.5, lambda: b.device.copy_to_device(b.one, host, b.size, b.stream)),
        "to_host_gb_s": (
            0.5,
            lambda: b.device.copy_to_host(b.back.ctypes.data, b.one, b.size, b.stream),
        ),
    }
    found = {}
    for name, (share, enqueue) in kinds.items():
        seconds = min(_seconds(b, enqueue) for _ in range(_ROUNDS))
        found[name] = round(share * copy_gb_s(b.size, _COPIES, seconds), 2)
    return found


def _seconds(b: _Buffers, enqueue: Callable[[], None]) -> float:
    b.device.synchronize(b.stream)
    began = time.perf_counter()
    for _ in range(_COPIES):
        enqueue()
    b.device.synchronize(b.stream)
    return time.perf_counter() - began
