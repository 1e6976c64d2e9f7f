"""The KV pool in the memory of a GPU."""

from __future__ import annotations

from collections.abc import Iterator

from edgellama.runtime.allocations import Allocations
from edgellama.runtime.device import ALIGNMENT, Device
from edgellama.runtime.manifest import EngineError, KvLayout
from edgellama.runtime.step import SlotCopy


class DevicePool:
    """A `[slots, kv_heads, capacity, head_dim]` cache for each layer's keys and values.

    They lie behind each other in one allocation: one thing to check, to clear and to free. A
    batch is a prefix of the slots, and a chunk one slot, so every tensor begins at a slot.
    """

    def __init__(self, allocations: Allocations, kv: KvLayout) -> None:
        self._names = [f"{layer}.{kind}" for layer in range(kv.layers) for kind in ("key", "value")]
        self.slot_bytes = slot_bytes(kv)
        self._cache_bytes = kv.slots * self.slot_bytes
        self._head_bytes = self.slot_bytes // kv.kv_heads
        self._position_bytes = self._head_bytes // kv.capacity
        self.bytes = pool_bytes(kv)
        self.address = allocations.on_device(self.bytes)

    def copy(self, device: Device, stream: int, copy: SlotCopy) -> None:
        """Enqueue the copy of the first positions of one slot's caches to another slot."""
        size = self.prefix_bytes(copy.length)
        for cache in range(self.caches):
            sources = self.prefixes(cache, copy.source)
            for source, target in zip(sources, self.prefixes(cache, copy.target), strict=True):
                device.copy(target, source, size, stream)

    @property
    def caches(self) -> int:
        """Caches of all layers, keys and values."""
        return len(self._names)

    def prefix_bytes(self, length: int) -> int:
        """Return the bytes of the first `length` positions of one head."""
        return length * self._position_bytes

    def prefixes(self, cache: int, slot: int) -> range:
        """Return where the heads of a slot begin in one of the caches."""
        begin = self.address + cache * self._cache_bytes + slot * self.slot_bytes
        return range(begin, begin + self.slot_bytes, self._head_bytes)

    def bindings(self, slot: int) -> Iterator[tuple[str, int]]:
        """Yield each past and each present with its address from `slot` on; both are the same."""
        for index, name in enumerate(self._names):
            address = self.address + index * self._cache_bytes + slot * self.slot_bytes
            yield f"past_key_values.{name}", address
            yield f"present.{name}", address


def slot_bytes(kv: KvLayout) -> int:
    """Return the bytes of one slot in one cache; raises EngineError where TensorRT cannot bind it.

    A chunk's cache begins in the middle of the pool, and TensorRT takes addresses of multiples of
    ALIGNMENT only.
    """
    size, rest = divmod(kv.capacity * kv.bytes_per_token, 2 * kv.layers)
    assert rest == 0
    if size % ALIGNMENT:
        row = kv.bytes_per_token // (2 * kv.layers)
        step = next(n for n in range(1, ALIGNMENT + 1) if n * row % ALIGNMENT == 0)
        raise EngineError(
            f"kv.capacity is {kv.capacity}, which makes a slot {size} bytes in each cache; "
            f"TensorRT needs a multiple of {ALIGNMENT}: build the engine with a limits.capacity "
            f"that is a multiple of {step}"
        )
    return size


def pool_bytes(kv: KvLayout) -> int:
    """Return the bytes of the whole pool."""
    return 2 * kv.layers * kv.slots * slot_bytes(kv)
