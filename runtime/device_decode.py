"""One token of every running slot on the GPU."""

from __future__ import annotations

from edgellama.profiles.shapes import batch_buckets
from edgellama.runtime.decode_contexts import GraphedDecode, MakeContext, ReshapedDecode
from edgellama.runtime.device import Device
from edgellama.runtime.device_pool import DevicePool
from edgellama.runtime.staging import InputStaging
from edgellama.runtime.step import Step
from edgellama.runtime.tensorrt_engine import EngineContext


class DeviceDecode:
    """The contexts of optimisation profile `decode`; run over a prefix of the pool's slots.

    The prefix `[0, bucket)` is the smallest bucket that holds every running slot, so addresses
    never change and there is one shape a bucket. An idle slot inside writes at `lengths[slot]`,
    which its next token or chunk overwrites before anything reads it.
    """

    def __init__(
        self,
        device: Device,
        stream: int,
        pool: DevicePool,
        inputs: InputStaging,
        logits_address: int,
        make: MakeContext,
        cache_shape: tuple[int, ...],
        *,
        slots: int,
        cuda_graphs: bool,
        captures_itself: bool,
    ) -> None:
        """`cache_shape` is that of one slot; with graphs every bucket runs once here."""
        self._device, self._stream = device, stream
        self._inputs = inputs
        self._buckets = batch_buckets(slots)

        def bind(context: EngineContext, batch: int) -> None:
            context.set_shape("input_ids", (batch, 1))
            context.set_shape("position_ids", (batch, 1))
            context.set_shape("write_indices", (batch,))
            context.set_shape("logits_indices", (batch,))
            for name, address in inputs.addresses.items():
                context.set_address(name, address)
            context.set_address("logits", logits_address)
            for name, address in pool.bindings(0):
                context.set_address(name, address)
                if name.startswith("past"):
                    context.set_shape(name, (batch, *cache_shape))

        self._contexts: GraphedDecode | ReshapedDecode
        if cuda_graphs:
            inputs.upload(device, stream)  # zeros: token 0 at position 0, in an empty pool
            self._contexts = GraphedDecode(
                device, stream, self._buckets, make, bind, captures_itself=captures_itself
            )
        else:
            self._contexts = ReshapedDecode(stream, make, bind)

    def enqueue(self, step: Step) -> None:
        """Enqueue the rows of a step; row r of the logits is that of `step.decode[r]`."""
        high = max(row.slot for row in step.decode) + 1
        bucket = next(size for size in self._buckets if size >= high)
        feed = self._inputs.arrays
        feed["input_ids"][:bucket] = 0  # idle rows feed any valid token
        feed["position_ids"][:bucket] = step.lengths[:bucket]
        feed["write_indices"][:bucket] = step.lengths[:bucket]
        feed["logits_indices"][:bucket] = 0  # rows that nobody asked for, and nobody copies
        for r, row in enumerate(step.decode):
            feed["input_ids"][row.slot] = row.token
            feed["logits_indices"][r] = row.slot
        self._inputs.upload(self._device, self._stream)
        self._contexts.launch(bucket)

    def close(self) -> None:
        """Free graphs and contexts."""
        self._contexts.close()
