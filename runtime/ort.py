"""The ONNX Runtime backend: one graph for prefill chunks and ragged decode, KV in numpy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgellama.runtime.backend import Logits
from edgellama.runtime.contract import check_graph
from edgellama.runtime.manifest import EngineError, KvLayout, Manifest, TensorInfo
from edgellama.runtime.step import PrefillChunk, Step

PROVIDERS = {"cpu": "CPUExecutionProvider"}
MAX_THREADS = 1024  # far above any CPU; each thread is made at once, so more would hang the load
KV_DTYPES = ("float32", "int8")
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}
# Workers spin inside a run only, so an idle server burns nothing, and briefly: long enough for the
# gap between two operators, short enough to leave the cores to the other threads of the process.
# (onnxruntime 1.23 has no spin_duration_us and ignores it.)
_SESSION_KEYS = {
    "session.intra_op.allow_spinning": "1",
    "session.intra_op.spin_duration_us": "50",
    "session.force_spinning_stop": "1",
}
# Without VNNI, products of unsigned and signed codes saturate at 16 bits; with this onnxruntime
# takes kernels that do not. Elsewhere it changes nothing.
_INTEGER_KEY = "session.x64quantprecision"
_LOG_ERRORS = 3


class OrtBackend:
    """Owns a session and the pool: a `[slots, kv_heads, capacity, head_dim]` array per key, value.

    Past and present of a run are bound to the same memory, a view of the pool over a range of
    slots `[low, high)`, so GroupQueryAttention appends in place and nothing is copied. A decode
    takes the smallest range that holds its rows; an idle slot inside writes at `lengths[slot]`,
    which its next chunk overwrites before anything reads it.
    """

    def __init__(self, session: ort.InferenceSession, kv: KvLayout, vocab_size: int) -> None:
        self._session = session
        self._kv = kv
        self._vocab_size = vocab_size
        shape = (kv.slots, kv.kv_heads, kv.capacity, kv.head_dim)
        self._pool: dict[str, npt.NDArray[Any]] = {}
        for layer in range(kv.layers):
            for kind in ("key", "value"):
                array = np.empty(shape, np.dtype(kv.dtype))
                array.fill(0)  # takes the page faults here and not in the first request
                self._pool[f"{layer}.{kind}"] = array
        self._ids = np.zeros(max(kv.capacity, kv.slots), np.int64)
        self._seqlens = np.zeros(kv.slots, np.int32)
        self._total = np.zeros((), np.int32)
        self._indices = np.zeros(max(kv.capacity, kv.slots), np.int64)
        self._logits = np.empty((kv.slots + 1, vocab_size), np.float32)
        self._total_value = ort.OrtValue.ortvalue_from_numpy(self._total)
        self._bindings: dict[tuple[int, int], ort.IOBinding] = {}
        self._values: dict[tuple[str, int, int], ort.OrtValue] = {}
        self._run_seconds = 0.0

    @classmethod
    def load(cls, directory: Path, manifest: Manifest, *, threads: int | None = None) -> OrtBackend:
        """Open the graph of an engine directory; `threads` None takes `device.threads`.

        Raises EngineError when the graph is unreadable or is not what the manifest says.
        """
        provider = PROVIDERS[manifest.profile.device.kind]
        if provider not in ort.get_available_providers():
            raise EngineError(
                f"engine {directory} needs {provider}; this onnxruntime {ort.__version__} has "
                f"{', '.join(ort.get_available_providers())}; install the matching extra"
            )
        if manifest.kv.dtype not in KV_DTYPES:
            raise EngineError(
                f"engine {directory}: kv.dtype is {manifest.kv.dtype!r}; this runtime supports "
                f"{', '.join(KV_DTYPES)}; rebuild the engine with another precision.kv"
            )
        count = threads if threads is not None else manifest.profile.device.threads
        if count is None:
            raise EngineError(f"engine {directory}: device.threads is missing; give the threads")
        if not 1 <= count <= MAX_THREADS:
            raise EngineError(f"threads is {count}; it must be in [1, {MAX_THREADS}]")
        options = ort.SessionOptions()
        options.intra_op_num_threads = count
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = _LOG_ERRORS
        for key, value in _SESSION_KEYS.items():
            options.add_session_config_entry(key, value)
        if manifest.profile.precision.weights == "int8_sq":
            options.add_session_config_entry(_INTEGER_KEY, "1")
        graph = directory / manifest.graph
        try:
            session = ort.InferenceSession(str(graph), options, providers=[provider])
        except Exception as error:  # onnxruntime's errors share no other base class
            raise EngineError(
                f"{graph}: onnxruntime {ort.__version__} cannot load it: {error}"
            ) from error
        check_graph(
            graph, manifest, _tensors(session.get_inputs()), _tensors(session.get_outputs())
        )
        return cls(session, manifest.kv, manifest.model.vocab_size)

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
    def run_seconds(self) -> float:
        """Seconds in the session since the load."""
        return self._run_seconds

    def run(self, step: Step) -> Logits:
        """Run one step; returns float32 `[step.num_logits, vocab_size]`, valid until the next."""
        for copy in step.copies:
            for array in self._pool.values():
                array[copy.target, :, : copy.length] = array[copy.source, :, : copy.length]
        if step.decode:  # an empty batch would kill the process inside GroupQueryAttention
            self._decode(step)
        if step.prefill is not None:
            self._prefill(step.prefill, len(step.decode))
        return self._logits[: step.num_logits]

    def run_tokens(self, slot: int, tokens: Sequence[int], start: int) -> Logits:
        """Feed `tokens` to `slot` at `start` as one chunk; logits `[len(tokens), vocab_size]`.

        The caller owns the slot: its positions `[0, start)` must be valid, and those of
        `[start, start + len(tokens))` are valid afterwards.
        """
        count = len(tokens)
        logits = np.empty((count, self._vocab_size), np.float32)
        self._indices[:count] = np.arange(count)
        binding = self._feed_chunk(slot, tokens, start)
        binding.bind_ortvalue_input("logits_indices", self._value("indices", 0, count))
        binding.bind_ortvalue_output("logits", ort.OrtValue.ortvalue_from_numpy(logits))
        self._execute(binding)
        return logits

    def cache(self, slot: int, length: int) -> dict[str, npt.NDArray[Any]]:
        """Return views `[kv_heads, length, head_dim]` of a slot's cache, by `LAYER.key|value`."""
        return {name: array[slot, :, :length] for name, array in self._pool.items()}

    def close(self) -> None:
        """Free the weights and the pool; the backend cannot run afterwards."""
        self._bindings.clear()
        self._values.clear()
        self._pool.clear()
        self._session = None

    def _decode(self, step: Step) -> None:
        """Run `[high - low, 1]` tokens; row r of the logits belongs to `step.decode[r]`."""
        slots = [row.slot for row in step.decode]
        low, high = min(slots), max(slots) + 1
        count, rows = high - low, len(slots)
        lengths = step.lengths[low:high]
        longest = max(lengths)
        if longest >= self.capacity:
            raise ValueError(f"a slot of {low}..{high - 1} has no position left: {lengths}")
        ids, indices = self._ids, self._indices
        ids[:count] = 0  # idle rows feed any valid token
        for r, row in enumerate(step.decode):
            ids[row.slot - low] = row.token
            indices[r] = row.slot - low
        self._seqlens[:count] = lengths
        self._total[...] = longest + 1
        binding = self._binding(low, high)
        binding.bind_ortvalue_input("input_ids", self._value("decode_ids", 0, count))
        binding.bind_ortvalue_input("logits_indices", self._value("indices", 0, rows))
        binding.bind_ortvalue_output("logits", self._value("logits", 0, rows))
        self._execute(binding)

    def _prefill(self, chunk: PrefillChunk, row: int) -> None:
        """Run one chunk; the logits of its last token go to `row`.

        They are computed for every chunk and dropped when it is not the last: asking for no row
        works with MatMul and MatMulNBits, but reductions over an empty batch (dynamic
        quantisation in front of the head) do not.
        """
        self._indices[0] = len(chunk.tokens) - 1
        binding = self._feed_chunk(chunk.slot, chunk.tokens, chunk.start)
        binding.bind_ortvalue_input("logits_indices", self._value("indices", 0, 1))
        binding.bind_ortvalue_output("logits", self._value("logits", row, row + 1))
        self._execute(binding)

    def _execute(self, binding: ort.IOBinding) -> None:
        began = time.perf_counter()
        self._session.run_with_iobinding(binding)
        self._run_seconds += time.perf_counter() - began

    def _feed_chunk(self, slot: int, tokens: Sequence[int], start: int) -> ort.IOBinding:
        count = len(tokens)
        if count < 1 or start < 0 or start + count > self.capacity:
            raise ValueError(
                f"{count} tokens at position {start} do not fit a slot of {self.capacity}"
            )
        self._ids[:count] = tokens
        self._seqlens[0] = start + count - 1
        self._total[...] = start + count
        binding = self._binding(slot, slot + 1)
        binding.bind_ortvalue_input("input_ids", self._value("chunk_ids", 0, count))
        return binding

    def _binding(self, low: int, high: int) -> ort.IOBinding:
        """Return the binding over the pool's slots `[low, high)`, made once a range."""
        binding = self._bindings.get((low, high))
        if binding is None:
            if not 0 <= low < high <= self.slots:
                raise ValueError(f"slots {low}..{high - 1} are outside 0..{self.slots - 1}")
            binding = self._session.io_binding()
            for name, array in self._pool.items():
                value = ort.OrtValue.ortvalue_from_numpy(array[low:high])
                binding.bind_ortvalue_input(f"past_key_values.{name}", value)
                binding.bind_ortvalue_output(f"present.{name}", value)
            binding.bind_ortvalue_input("seqlens_k", self._value("seqlens", 0, high - low))
            binding.bind_ortvalue_input("total_sequence_length", self._total_value)
            self._bindings[low, high] = binding
        return binding

    def _value(self, name: str, start: int, stop: int) -> ort.OrtValue:
        """Return a view of a preallocated array as an OrtValue, made once a range."""
        value = self._values.get((name, start, stop))
        if value is None:
            view: npt.NDArray[Any]
            if name == "logits":
                view = self._logits[start:stop]
            elif name == "seqlens":
                view = self._seqlens[start:stop]
            elif name == "indices":
                view = self._indices[start:stop]
            elif name == "decode_ids":
                view = self._ids[start:stop, None]
            else:
                view = self._ids[None, start:stop]
            value = ort.OrtValue.ortvalue_from_numpy(view)
            self._values[name, start, stop] = value
        return value


def _tensors(nodes: Sequence[Any]) -> tuple[TensorInfo, ...]:
    return tuple(TensorInfo(n.name, _DTYPES.get(n.type, n.type), tuple(n.shape)) for n in nodes)
