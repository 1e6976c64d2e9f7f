"""The key and value cache of all slots in numpy, and its parts as ONNX Runtime binds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellama.runtime.manifest import KvLayout
from edgellama.runtime.ort_session import Value, value_of
from edgellama.runtime.step import CacheCopy, PrefixRestore, PrefixSave, SlotCopy


class CachePool:
    """A `[slots, kv_heads, capacity, head_dim]` array by `LAYER.key|value`.

    Saved prefixes are `[kv_heads, length, head_dim]` copies of it, by entry.
    """

    def __init__(self, kv: KvLayout) -> None:
        self._kv = kv
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        for layer in range(kv.layers):
            for kind in ("key", "value"):
                shape = (kv.slots, kv.kv_heads, kv.capacity, kv.head_dim)
                array = np.empty(shape, np.dtype(kv.dtype))
                array.fill(0)  # takes the page faults here and not in the first request
                self._arrays[f"{layer}.{kind}"] = array
        self._saved: dict[int, dict[str, npt.NDArray[Any]]] = {}
        self._values: dict[tuple[int, int], dict[str, Value]] = {}
        one = np.zeros((1, kv.kv_heads, 1, kv.head_dim), np.dtype(kv.dtype))
        self._spare = dict.fromkeys(self._arrays, value_of(one))

    @property
    def slots_in_all(self) -> int:
        """Sequences that fit at once."""
        return self._kv.slots

    @property
    def capacity(self) -> int:
        """Tokens a slot holds."""
        return self._kv.capacity

    def copy(self, copy: CacheCopy) -> None:
        """Copy the beginning of a slot to another, save or restore it, or drop a saved one."""
        if isinstance(copy, SlotCopy):
            for array in self._arrays.values():
                array[copy.target, :, : copy.length] = array[copy.source, :, : copy.length]
        elif isinstance(copy, PrefixSave):
            views = self.read(copy.slot, copy.length)
            self._saved[copy.entry] = {name: view.copy() for name, view in views.items()}
        elif isinstance(copy, PrefixRestore):
            for name, saved in self._saved[copy.entry].items():
                self._arrays[name][copy.slot, :, : copy.length] = saved[:, : copy.length]
        else:
            self._saved.pop(copy.entry, None)

    def read(self, slot: int, length: int) -> dict[str, npt.NDArray[Any]]:
        """Return views `[kv_heads, length, head_dim]` of a slot, by `LAYER.key|value`."""
        return {name: array[slot, :, :length] for name, array in self._arrays.items()}

    def slots(self, low: int, high: int) -> Mapping[str, Value]:
        """Return the views over the slots `[low, high)`, made once a range."""
        found = self._values.get((low, high))
        if found is None:
            if not 0 <= low < high <= self._kv.slots:
                raise ValueError(f"slots {low}..{high - 1} are outside 0..{self._kv.slots - 1}")
            found = {name: value_of(array[low:high]) for name, array in self._arrays.items()}
            self._values[low, high] = found
        return found

    def spare(self) -> Mapping[str, Value]:
        """Return a cache of one position, the same memory for every layer."""
        return self._spare

    def clear(self) -> None:
        """Free the memory."""
        self._saved.clear()
        self._values.clear()
        self._spare.clear()
        self._arrays.clear()
