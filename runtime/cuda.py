"""The CUDA runtime behind `Device`: the only user of cuda-python (12.6 and later)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cuda.bindings import runtime

from edgellama.runtime.device import DeviceProperties
from edgellama.runtime.manifest import EngineError

_MEMINFO = Path("/proc/meminfo")


def _call(function: Callable[..., Any], *arguments: Any, what: str = "") -> Any:
    """Call the CUDA runtime; returns its value (None, one, or a tuple of several)."""
    code, *values = function(*arguments)
    if code != runtime.cudaError_t.cudaSuccess:
        name = runtime.cudaGetErrorName(code)[1].decode()
        text = runtime.cudaGetErrorString(code)[1].decode()
        detail = f" for {what}" if what else ""
        raise EngineError(f"CUDA: {function.__name__}{detail} failed: {name} ({text})")
    if not values:
        return None
    return values[0] if len(values) == 1 else tuple(values)


class Cuda:
    """The first GPU that CUDA shows; choose another one by CUDA_VISIBLE_DEVICES."""

    _INDEX = 0  # current in every thread that never asked for another one

    def __init__(self) -> None:
        """Raise EngineError where no GPU can be used."""
        if _call(runtime.cudaGetDeviceCount) < 1:
            raise EngineError("CUDA shows no GPU; check CUDA_VISIBLE_DEVICES")
        _call(runtime.cudaSetDevice, self._INDEX)

    def properties(self) -> DeviceProperties:
        """Return what the GPU says of itself."""
        found = _call(runtime.cudaGetDeviceProperties, self._INDEX)
        driver = _call(runtime.cudaDriverGetVersion)  # 13020 is 13.2
        return DeviceProperties(
            found.name.decode(),
            f"{found.major}.{found.minor}",
            f"{driver // 1000}.{driver % 1000 // 10}",
        )

    def available_memory(self) -> int:
        """Return the bytes that an allocation may still take.

        Where CPU and GPU share memory, CUDA counts the pages that hold cached files as taken,
        although an allocation gets them: the plan itself has just been read.
        """
        free, _ = _call(runtime.cudaMemGetInfo)
        attribute = runtime.cudaDeviceAttr.cudaDevAttrIntegrated
        if _call(runtime.cudaDeviceGetAttribute, attribute, self._INDEX):
            for line in _MEMINFO.read_text(encoding="ascii").splitlines():
                if line.startswith("MemAvailable:"):
                    return max(int(free), int(line.split()[1]) * 1024)
        return int(free)

    def allocate(self, size: int) -> int:
        """Allocate memory of the GPU."""
        return int(_call(runtime.cudaMalloc, size, what=f"{size} bytes"))

    def free(self, address: int) -> None:
        """Give memory of the GPU back; waits for what uses it."""
        _call(runtime.cudaFree, address)

    def allocate_pinned(self, size: int) -> int:
        """Allocate memory of the host that copies can use while the program goes on."""
        flags = runtime.cudaHostAllocDefault
        return int(_call(runtime.cudaHostAlloc, size, flags, what=f"{size} bytes"))

    def free_pinned(self, address: int) -> None:
        """Give pinned memory back."""
        _call(runtime.cudaFreeHost, address)

    def create_stream(self) -> int:
        """Create a stream that does not wait for the default one."""
        return int(_call(runtime.cudaStreamCreateWithFlags, runtime.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        _call(runtime.cudaStreamDestroy, stream)

    def synchronize(self, stream: int) -> None:
        """Wait until all that was enqueued has happened."""
        _call(runtime.cudaStreamSynchronize, stream)

    def clear(self, address: int, size: int, stream: int) -> None:
        """Set memory of the GPU to zero."""
        _call(runtime.cudaMemsetAsync, address, 0, size, stream)

    def copy_to_device(self, address: int, host: int, size: int, stream: int) -> None:
        """Copy from pinned memory, which must stay as it is until the stream is synchronised."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        _call(runtime.cudaMemcpyAsync, address, host, size, kind, stream)

    def copy_to_host(self, host: int, address: int, size: int, stream: int) -> None:
        """Copy to pinned memory, which is valid once the stream is synchronised."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _call(runtime.cudaMemcpyAsync, host, address, size, kind, stream)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy within the memory of the GPU."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        _call(runtime.cudaMemcpyAsync, target, source, size, kind, stream)

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        """Return a graph of what `enqueue` puts on the stream; nothing of it happens now."""
        # Thread-local: another thread of the program may use CUDA meanwhile.
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call(runtime.cudaStreamBeginCapture, stream, mode)
        try:
            enqueue()
        except BaseException:
            # A stream must leave capture before it can be destroyed; the graph is void.
            _, graph = runtime.cudaStreamEndCapture(stream)
            if graph is not None and int(graph):
                runtime.cudaGraphDestroy(graph)
            raise
        graph = _call(runtime.cudaStreamEndCapture, stream)
        try:
            return int(_call(runtime.cudaGraphInstantiate, graph, 0))
        finally:
            _call(runtime.cudaGraphDestroy, graph)

    def launch(self, graph: int, stream: int) -> None:
        """Enqueue a captured graph."""
        _call(runtime.cudaGraphLaunch, graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Give a graph back."""
        _call(runtime.cudaGraphExecDestroy, graph)
