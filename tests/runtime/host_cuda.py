"""A `Device` whose memory is that of the host; what is enqueued happens at `synchronize`.

It is no GPU: it keeps CUDA's rules for memory, streams and graphs, and refuses what breaks them.
New memory holds rubbish. Copies are checked when they are enqueued and happen later, so pinned
memory that is filled again too early, or read too early, gives wrong numbers. It does not prove
that CUDA itself takes the calls.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from recorded_tensorrt import Call, Record

from edgellama.runtime.device import ALIGNMENT, DeviceProperties
from edgellama.runtime.manifest import EngineError

_RUBBISH = 0xEF  # as float32 -1.5e29, as an id far outside of any vocabulary
Operation = Callable[[], None]


class HostCuda:
    """Keeps every allocation, stream and graph by number; `fails` says which calls fail."""

    def __init__(
        self,
        record: Record,
        *,
        memory: int = 1 << 30,
        compute_capability: str = "8.9",
        fails: Callable[[str], bool] = lambda name: False,
    ) -> None:
        self.record = record
        self.device: dict[int, tuple[int, ctypes.Array[ctypes.c_char]]] = {}
        self.pinned: dict[int, tuple[int, ctypes.Array[ctypes.c_char]]] = {}
        self.streams: dict[int, list[Operation]] = {}
        self.graphs: dict[int, list[Operation]] = {}
        self._memory = memory
        self._compute_capability = compute_capability
        self._fails = fails
        self._captured: list[Operation] | None = None
        self._next = 1000

    @property
    def is_capturing(self) -> bool:
        """Whether a stream is being captured."""
        return self._captured is not None

    @property
    def is_empty(self) -> bool:
        """Whether everything was given back."""
        return not (self.device or self.pinned or self.streams or self.graphs)

    def properties(self) -> DeviceProperties:
        return DeviceProperties("a host that stands for a GPU", self._compute_capability, "13.2")

    def available_memory(self) -> int:
        return self._memory - sum(size for size, _ in self.device.values())

    def allocate(self, size: int) -> int:
        self._called("allocate", size, captured=False)
        if size > self.available_memory():
            raise EngineError("CUDA: cudaMalloc failed: cudaErrorMemoryAllocation (out of memory)")
        return self._take(self.device, size)

    def free(self, address: int) -> None:
        self._called("free", captured=False, fallible=False)
        self._flush()  # as cudaFree does
        del self.device[address]

    def allocate_pinned(self, size: int) -> int:
        self._called("allocate_pinned", size, captured=False)
        return self._take(self.pinned, size)

    def free_pinned(self, address: int) -> None:
        self._called("free_pinned", captured=False, fallible=False)
        self._flush()
        del self.pinned[address]

    def create_stream(self) -> int:
        self._called("create_stream", captured=False)
        self.streams[self._number()] = []
        return self._next

    def destroy_stream(self, stream: int) -> None:
        self._called("destroy_stream", captured=False, fallible=False)
        del self.streams[stream]

    def synchronize(self, stream: int) -> None:
        self._called("synchronize", captured=False)
        assert stream in self.streams
        self._flush()

    def clear(self, address: int, size: int, stream: int) -> None:
        self._called("clear", size)
        self.check_device(address, size)
        self.submit(stream, lambda: ctypes.memset(address, 0, size) and None)

    def copy_to_device(self, address: int, host: int, size: int, stream: int) -> None:
        self._called("copy_to_device", size)
        self.check_device(address, size)
        self._check_pinned(host, size)
        self.submit(stream, lambda: ctypes.memmove(address, host, size) and None)

    def copy_to_host(self, host: int, address: int, size: int, stream: int) -> None:
        self._called("copy_to_host", size)
        self.check_device(address, size)
        self._check_pinned(host, size)
        self.submit(stream, lambda: ctypes.memmove(host, address, size) and None)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        self._called("copy", size)
        self.check_device(target, size)
        self.check_device(source, size)
        self.submit(stream, lambda: ctypes.memmove(target, source, size) and None)

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        self._called("capture", captured=False)
        assert stream in self.streams
        self._captured = []
        try:
            enqueue()
            self.graphs[self._number()] = self._captured
        finally:
            self._captured = None
        return self._next

    def launch(self, graph: int, stream: int) -> None:
        self._called("launch")
        for operation in self.graphs[graph]:
            self.submit(stream, operation)

    def destroy_graph(self, graph: int) -> None:
        self._called("destroy_graph", captured=False, fallible=False)
        del self.graphs[graph]

    def submit(self, stream: int, operation: Operation) -> None:
        """Put an operation on a stream, or into the graph that is being captured."""
        pending = self.streams[stream]
        (pending if self._captured is None else self._captured).append(operation)

    def check_device(self, address: int, size: int) -> None:
        """Assert that a range lies inside one live allocation of the GPU."""
        assert _lies_inside(self.device, address, size), f"{size} bytes at {address:#x}"

    def _check_pinned(self, address: int, size: int) -> None:
        assert _lies_inside(self.pinned, address, size), f"{size} bytes at {address:#x}"

    def _called(
        self, name: str, *arguments: int, captured: bool = True, fallible: bool = True
    ) -> None:
        self.record.append(Call(f"cuda.{name}", arguments))
        assert captured or not self.is_capturing, f"{name} during capture"
        if fallible and self._fails(name):
            raise EngineError(f"CUDA: {name} failed: cudaErrorUnknown (planted)")

    def _flush(self) -> None:
        for pending in self.streams.values():
            for operation in pending:
                operation()
            pending.clear()

    def _number(self) -> int:
        self._next += 1
        return self._next

    def _take(self, where: dict[int, tuple[int, ctypes.Array[ctypes.c_char]]], size: int) -> int:
        buffer = ctypes.create_string_buffer(size + ALIGNMENT)
        ctypes.memset(buffer, _RUBBISH, size + ALIGNMENT)
        address = -(-ctypes.addressof(buffer) // ALIGNMENT) * ALIGNMENT
        where[address] = (size, buffer)
        return address


def _lies_inside(
    where: dict[int, tuple[int, ctypes.Array[ctypes.c_char]]], address: int, size: int
) -> bool:
    return any(a <= address and address + size <= a + n for a, (n, _) in where.items())
