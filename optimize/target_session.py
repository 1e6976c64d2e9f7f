"""Run the very graph that is sent to TensorRT on ONNX Runtime's CPU: its proof without a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellama.optimize.portable_session import open_session
from edgellama.runtime.backend import Logits
from edgellama.runtime.manifest import KvLayout
from edgellama.runtime.step import PrefillChunk, Step

# Cache type -> what numpy stores it as, and ONNX's number for it (TensorProto.DataType).
_STORED: Mapping[str, tuple[np.dtype[Any], Any]] = {"float8_e4m3fn": (np.dtype(np.uint8), 17)}


class TargetSession:
    """A backend over a graph of one of TensorRT's targets, its KV pool in numpy.

    Past and present are bound to the same memory, as TensorRT has them. Float32 and float16 run;
    bfloat16 has no operators on ONNX Runtime's CPU. Raises BuildError where the graph cannot run.
    """

    def __init__(
        self,
        graph: Path,
        kv: KvLayout,
        vocab_size: int,
        *,
        threads: int | None = None,
        prepack: bool = False,
    ) -> None:
        self._session: Any = open_session(graph, threads=threads, prepack=prepack)
        self._kv = kv
        self._vocab_size = vocab_size
        shape = (kv.slots, kv.kv_heads, kv.capacity, kv.head_dim)
        known = (np.dtype(kv.dtype),) * 2 if kv.dtype not in _STORED else _STORED[kv.dtype]
        stored: np.dtype[Any] = known[0]
        self._cache_type: Any = known[1]
        self._pool = {
            f"{layer}.{kind}": np.zeros(shape, stored)
            for layer in range(kv.layers)
            for kind in ("key", "value")
        }

    @property
    def slots(self) -> int:
        """Sequences that fit at once."""
        return self._kv.slots

    @property
    def capacity(self) -> int:
        """Tokens a slot holds."""
        return self._kv.capacity

    @property
    def vocab_size(self) -> int:
        """Columns of the logits."""
        return self._vocab_size

    @property
    def token_bytes(self) -> int:
        """Bytes that a token takes in the caches of all layers, keys and values."""
        return self._kv.bytes_per_token

    @property
    def run_seconds(self) -> float:
        """0: here answers are compared, not times."""
        return 0.0

    def run(self, step: Step) -> Logits:
        """Run one step; returns float32 `[step.num_logits, vocab_size]`."""
        parts = [np.empty((0, self._vocab_size), np.float32)]
        if step.decode:
            parts.append(self._decode(step))
        if step.prefill is not None:
            last = self._chunk(step.prefill)
            if step.prefill.is_last:
                parts.append(last)
        return np.concatenate(parts)

    def run_tokens(
        self, slot: int, tokens: Sequence[int], start: int, *, is_pinned: bool = False
    ) -> Logits:
        """Feed `tokens` to `slot` at `start` as one chunk; logits `[len(tokens), vocab_size]`.

        `is_pinned` asks for what every run is: there is one form of the weights.
        """
        return self._feed(slot, [list(tokens)], [start], list(range(len(tokens))))

    def cache(self, slot: int, length: int) -> dict[str, npt.NDArray[Any]]:
        """Return views `[kv_heads, length, head_dim]` of a slot's cache, by `LAYER.key|value`.

        E4M3 codes are uint8.
        """
        return {name: array[slot, :, :length] for name, array in self._pool.items()}

    def close(self) -> None:
        """Free the weights and the pool; the backend cannot run afterwards."""
        self._pool.clear()
        self._session = None

    def _decode(self, step: Step) -> Logits:
        """Run the pool up to the last running row; idle rows write behind their tokens."""
        high = max(row.slot for row in step.decode) + 1
        tokens, wanted = [0] * high, []
        for row in step.decode:
            tokens[row.slot] = row.token
            wanted.append(row.slot)
        return self._feed(0, [[token] for token in tokens], list(step.lengths[:high]), wanted)

    def _chunk(self, chunk: PrefillChunk) -> Logits:
        last = len(chunk.tokens) - 1
        return self._feed(chunk.slot, [list(chunk.tokens)], [chunk.start], [last])

    def _feed(
        self, slot: int, tokens: list[list[int]], starts: list[int], wanted: list[int]
    ) -> Logits:
        """Run rows `[slot, slot + len(tokens))` from `starts`; `wanted` are flattened positions."""
        ids = np.array(tokens, np.int64)
        batch, length = ids.shape
        if max(starts) + length > self.capacity:
            raise ValueError(
                f"{length} tokens at {max(starts)} do not fit a slot of {self.capacity}"
            )
        indices = np.array(starts, np.int64)
        logits = np.empty((len(wanted), self._vocab_size), np.float32)
        arrays: dict[str, npt.NDArray[Any]] = {
            "input_ids": ids,
            "position_ids": indices[:, None] + np.arange(length, dtype=np.int64),
            "write_indices": indices,
            "logits_indices": np.array(wanted, np.int64),
        }
        binding = self._session.io_binding()

        def bind(call: Any, name: str, array: npt.NDArray[Any], kind: Any = None) -> None:
            call(name, "cpu", 0, kind or array.dtype, list(array.shape), array.ctypes.data)

        for name, array in self._pool.items():
            view = array[slot : slot + batch]
            bind(binding.bind_input, f"past_key_values.{name}", view, self._cache_type)
            bind(binding.bind_output, f"present.{name}", view, self._cache_type)
        for name, array in arrays.items():
            bind(binding.bind_input, name, array)
        bind(binding.bind_output, "logits", logits)
        self._session.run_with_iobinding(binding)
        return logits
