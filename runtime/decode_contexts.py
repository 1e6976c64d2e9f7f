"""Who runs a decode of each batch size: one context for all, or one for each with its graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from edgellama.runtime.device import Device
from edgellama.runtime.manifest import EngineError
from edgellama.runtime.tensorrt_engine import EngineContext

MakeContext = Callable[[], EngineContext]
Bind = Callable[[EngineContext, int], None]
"""Gives a context the shapes and addresses of a batch size."""


class ReshapedDecode:
    """One context, which takes another shape when the batch size changes."""

    def __init__(self, stream: int, make: MakeContext, bind: Bind) -> None:
        self._stream = stream
        self._bind = bind
        self._context = make()
        self._batch = 0

    def launch(self, batch: int) -> None:
        """Enqueue a decode of `batch` rows."""
        if batch != self._batch:
            self._bind(self._context, batch)
            self._batch = batch
        self._context.enqueue(self._stream)

    def close(self) -> None:
        """Free the context."""
        self._context.close()


class GraphedDecode:
    """A context and a CUDA graph for each batch size, all made at once.

    A graph keeps the context, the shapes and the addresses that it was captured with, so every
    live one needs a context that nobody touches afterwards (since TensorRT 10 contexts share an
    optimisation profile). They share the activation memory, as one stream runs one at a time; what
    each keeps besides is small, and no call tells it: it is taken here and not while serving.
    With `captures_itself` the library keeps the graphs.
    """

    def __init__(
        self,
        device: Device,
        stream: int,
        batches: Sequence[int],
        make: MakeContext,
        bind: Bind,
        *,
        captures_itself: bool,
    ) -> None:
        """Run each size once with the inputs as they are, which writes into the cache.

        Raises EngineError that names the setting to change where capture fails.
        """
        self._launches: dict[int, Callable[[], None]] = {}
        self._owned = ExitStack()
        try:
            for batch in batches:
                context = make()
                self._owned.callback(context.close)
                bind(context, batch)
                # The first run sets up what must not happen during capture.
                context.enqueue(stream)
                device.synchronize(stream)
                enqueue = partial(context.enqueue, stream)
                if captures_itself:
                    self._launches[batch] = enqueue
                    continue
                graph = _capture(device, stream, enqueue, batch)
                self._owned.callback(device.destroy_graph, graph)
                self._launches[batch] = partial(device.launch, graph, stream)
        except BaseException:
            self.close()
            raise

    def launch(self, batch: int) -> None:
        """Enqueue a decode of `batch` rows."""
        self._launches[batch]()

    def close(self) -> None:
        """Free graphs and contexts."""
        self._launches.clear()
        self._owned.close()


def _capture(device: Device, stream: int, enqueue: Callable[[], None], batch: int) -> int:
    try:
        return device.capture(stream, enqueue)
    except EngineError as error:
        raise EngineError(
            f"the decode of batch size {batch} cannot be captured as a CUDA graph: {error}; build "
            "the engine with tensorrt.cuda_graphs = false"
        ) from error
