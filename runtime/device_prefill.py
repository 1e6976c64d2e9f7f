"""A chunk of one prompt on the GPU."""

from __future__ import annotations

from collections.abc import Sequence

from edgellama.runtime.device import Device
from edgellama.runtime.device_pool import DevicePool
from edgellama.runtime.staging import InputStaging
from edgellama.runtime.tensorrt_engine import EngineContext


class DevicePrefill:
    """The context of optimisation profile `prefill`; runs over one slot of the pool.

    Lengths vary freely, so nothing of it is captured; addresses change only with the slot.
    """

    def __init__(
        self,
        device: Device,
        stream: int,
        pool: DevicePool,
        inputs: InputStaging,
        logits_address: int,
        context: EngineContext,
        cache_shape: tuple[int, ...],
    ) -> None:
        """`cache_shape` is that of one slot, `[kv_heads, capacity, head_dim]`."""
        self._device, self._stream = device, stream
        self._pool = pool
        self._inputs = inputs
        self._context = context
        self._slot = 0
        for name, address in inputs.addresses.items():
            context.set_address(name, address)
        context.set_address("logits", logits_address)
        context.set_shape("write_indices", (1,))
        for name, address in pool.bindings(self._slot):
            context.set_address(name, address)
            if name.startswith("past"):
                context.set_shape(name, (1, *cache_shape))

    def enqueue(self, slot: int, tokens: Sequence[int], start: int, wanted: Sequence[int]) -> None:
        """Enqueue one chunk; `wanted` are its positions whose logits are written, in that order.

        There is at least one, as the graph has no run without a row.
        """
        count, feed, context = len(tokens), self._inputs.arrays, self._context
        feed["input_ids"][:count] = tokens
        feed["position_ids"][:count] = range(start, start + count)
        feed["write_indices"][0] = start
        feed["logits_indices"][: len(wanted)] = wanted
        self._inputs.upload(self._device, self._stream)
        context.set_shape("input_ids", (1, count))
        context.set_shape("position_ids", (1, count))
        context.set_shape("logits_indices", (len(wanted),))
        if slot != self._slot:
            for name, address in self._pool.bindings(slot):
                context.set_address(name, address)
            self._slot = slot
        context.enqueue(self._stream)

    def close(self) -> None:
        """Free the context."""
        self._context.close()
