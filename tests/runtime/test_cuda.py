"""The calls of cuda-python, as far as they go without a GPU: it takes them, CUDA refuses them."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
from host_cuda import HostCuda

from edgellama.runtime.device import Device
from edgellama.runtime.manifest import EngineError

pytest.importorskip("cuda.bindings")

from edgellama.runtime.cuda import Cuda

METHODS = sorted(name for name in vars(Device) if not name.startswith("_"))
CALLS: dict[str, Callable[[Cuda], object]] = {
    "properties": lambda gpu: gpu.properties(),
    "available_memory": lambda gpu: gpu.available_memory(),
    "allocate": lambda gpu: gpu.allocate(1024),
    "free": lambda gpu: gpu.free(256),
    "allocate_pinned": lambda gpu: gpu.allocate_pinned(1024),
    "free_pinned": lambda gpu: gpu.free_pinned(256),
    "create_stream": lambda gpu: gpu.create_stream(),
    "destroy_stream": lambda gpu: gpu.destroy_stream(7),
    "synchronize": lambda gpu: gpu.synchronize(7),
    "clear": lambda gpu: gpu.clear(256, 1024, 7),
    "copy_to_device": lambda gpu: gpu.copy_to_device(256, 512, 1024, 7),
    "copy_to_host": lambda gpu: gpu.copy_to_host(512, 256, 1024, 7),
    "copy": lambda gpu: gpu.copy(256, 2048, 1024, 7),
    "capture": lambda gpu: gpu.capture(7, lambda: None),
    "launch": lambda gpu: gpu.launch(9, 7),
    "destroy_graph": lambda gpu: gpu.destroy_graph(9),
}


@pytest.fixture
def gpu() -> Cuda:
    """The adapter without its own first question; addresses here are nobody's."""
    try:
        Cuda()
    except EngineError as error:
        assert "cudaGetDeviceCount failed: cudaError" in str(error)
        return object.__new__(Cuda)
    pytest.skip("this machine has a GPU")


@pytest.mark.parametrize("method", METHODS)
def test_every_call_reaches_cuda(gpu: Cuda, method: str) -> None:
    """A wrong count or type of arguments would be a TypeError of cuda-python."""
    with pytest.raises(EngineError, match=r"^CUDA: cuda.* failed: cudaError\w+ \("):
        CALLS[method](gpu)


@pytest.mark.parametrize("kind", [Cuda, HostCuda])
@pytest.mark.parametrize("method", METHODS)
def test_the_devices_have_the_protocols_methods(kind: type, method: str) -> None:
    wanted = inspect.signature(vars(Device)[method])
    assert inspect.signature(vars(kind)[method]) == wanted
