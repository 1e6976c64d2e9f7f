"""What the TensorRT backend asks of a GPU: memory, one stream, and graphs of what was enqueued."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

ALIGNMENT = 256  # of every tensor's address, in bytes (nvinfer1::IExecutionContext)


@dataclass(frozen=True)
class DeviceProperties:
    """What a GPU says of itself; `compute_capability` is "major.minor", `driver` CUDA's version."""

    name: str
    compute_capability: str
    driver: str


class Device(Protocol):
    """One GPU. Addresses, streams and graphs are numbers, sizes are bytes.

    What takes a stream returns at once and happens in the stream's order. Every method raises
    EngineError with CUDA's own name for what went wrong.
    """

    def properties(self) -> DeviceProperties:
        """Return what the GPU says of itself."""

    def available_memory(self) -> int:
        """Return the bytes that an allocation may still take."""

    def allocate(self, size: int) -> int:
        """Allocate memory of the GPU, aligned to ALIGNMENT at least."""

    def free(self, address: int) -> None:
        """Give memory of the GPU back; waits for what uses it."""

    def allocate_pinned(self, size: int) -> int:
        """Allocate memory of the host that copies can use while the program goes on."""

    def free_pinned(self, address: int) -> None:
        """Give pinned memory back."""

    def create_stream(self) -> int:
        """Create a stream that does not wait for the default one."""

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""

    def synchronize(self, stream: int) -> None:
        """Wait until all that was enqueued has happened."""

    def clear(self, address: int, size: int, stream: int) -> None:
        """Set memory of the GPU to zero."""

    def copy_to_device(self, address: int, host: int, size: int, stream: int) -> None:
        """Copy from pinned memory, which must stay as it is until the stream is synchronised."""

    def copy_to_host(self, host: int, address: int, size: int, stream: int) -> None:
        """Copy to pinned memory, which is valid once the stream is synchronised."""

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy within the memory of the GPU."""

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        """Return a graph of what `enqueue` puts on the stream; nothing of it happens now."""

    def launch(self, graph: int, stream: int) -> None:
        """Enqueue a captured graph."""

    def destroy_graph(self, graph: int) -> None:
        """Give a graph back."""
