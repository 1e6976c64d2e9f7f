"""The ONNX Runtime backend: running rows and a chunk in one step of one graph, KV in numpy."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgellama.runtime.backend import Logits
from edgellama.runtime.contract import check_graph
from edgellama.runtime.manifest import EngineError, KvLayout, Manifest, TensorInfo
from edgellama.runtime.ort_cache import CachePool
from edgellama.runtime.ort_feeds import Range, StepFeeds, StepShape
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
INTEGER_WEIGHTS = ("int8_sq", "int8_rows")
_LOG_ERRORS = 3


class OrtBackend:
    """Owns a session and the pool: a `[slots, kv_heads, capacity, head_dim]` array per key, value.

    Past and present of a run are bound to the same memory, so GroupQueryAttention appends in place
    and nothing is copied: of the rows to a view of the pool over a range of slots `[low, high)`, of
    the chunk to a view of its slot. A step takes the smallest range that holds its rows; an idle
    slot inside writes at `lengths[slot]`, which its next chunk overwrites before anything reads it.
    If the chunk's own slot lies inside, its row repeats the chunk's first token: both write the
    same. Rows or a chunk that a step lacks have a spare cache of one position, which nobody reads.
    """

    def __init__(self, session: ort.InferenceSession, kv: KvLayout, vocab_size: int) -> None:
        self._session = session
        self._kv = kv
        self._vocab_size = vocab_size
        self._pool = CachePool(kv)
        self._feeds = StepFeeds(kv.slots, kv.capacity)
        self._logits = np.empty((kv.slots + 1, vocab_size), np.float32)
        self._bindings: dict[Range | None, _Binding] = {}
        self._logits_values: dict[int, ort.OrtValue] = {}
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
        if manifest.profile.precision.weights in INTEGER_WEIGHTS:
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
        """Run one step; returns float32 `[step.num_logits, vocab_size]`, valid until the next.

        Of a step without running rows whose chunk is not the last, the logits of the chunk's last
        token are computed and dropped: reductions over an empty batch (dynamic quantisation in
        front of the head) do not work.
        """
        for copy in step.copies:
            self._pool.copy(copy)
        decode, chunk = step.decode, step.prefill
        if decode or chunk is not None:
            wanted = step.num_logits or 1
            value = self._logits_values.get(wanted)
            if value is None:
                value = ort.OrtValue.ortvalue_from_numpy(self._logits[:wanted])
                self._logits_values[wanted] = value
            shape = self._feeds.fill(decode, chunk, step.lengths)
            self._feeds.want_last(len(decode), wanted, shape.tokens)
            self._execute(shape, chunk, wanted, value)
        return self._logits[: step.num_logits]

    def run_tokens(self, slot: int, tokens: Sequence[int], start: int) -> Logits:
        """Feed `tokens` to `slot` at `start` as one chunk; logits `[len(tokens), vocab_size]`.

        The caller owns the slot: its positions `[0, start)` must be valid, and those of
        `[start, start + len(tokens))` are valid afterwards.
        """
        count = len(tokens)
        chunk = PrefillChunk(slot, tuple(tokens), start, is_last=True)
        shape = self._feeds.fill((), chunk, ())
        self._feeds.want_all(count)
        logits = np.empty((count, self._vocab_size), np.float32)
        self._execute(shape, chunk, count, ort.OrtValue.ortvalue_from_numpy(logits))
        return logits

    def cache(self, slot: int, length: int) -> dict[str, npt.NDArray[Any]]:
        """Return views `[kv_heads, length, head_dim]` of a slot's cache, by `LAYER.key|value`."""
        return self._pool.read(slot, length)

    def close(self) -> None:
        """Free the weights and the pool; the backend cannot run afterwards."""
        self._bindings.clear()
        self._logits_values.clear()
        self._pool.clear()
        self._session = None

    def _execute(
        self, shape: StepShape, chunk: PrefillChunk | None, wanted: int, logits: ort.OrtValue
    ) -> None:
        """Bind what differs from the last step over the same rows, and run."""
        bound = self._bindings.get(shape.rows)
        if bound is None:
            bound = _Binding(self._session.io_binding(), self._pool, shape.rows)
            self._bindings[shape.rows] = bound
        bound.set_chunk(self._pool, None if chunk is None else chunk.slot)
        sizes = (shape.tokens, shape.chunk, wanted)
        if bound.sizes != sizes:
            for name, value in self._feeds.values(shape, wanted):
                bound.binding.bind_ortvalue_input(name, value)
            bound.sizes = sizes
        bound.binding.bind_ortvalue_output("logits", logits)
        began = time.perf_counter()
        self._session.run_with_iobinding(bound.binding)
        self._run_seconds += time.perf_counter() - began


class _Binding:
    """One binding over the rows of a range; what is bound besides them, to bind it once."""

    def __init__(self, binding: ort.IOBinding, pool: CachePool, rows: Range | None) -> None:
        self.binding = binding
        self.sizes: tuple[int, int, int] | None = None
        self._chunk_slot: int | None = -1  # neither a slot nor the spare
        self._bind("", pool.spare() if rows is None else pool.slots(*rows))

    def set_chunk(self, pool: CachePool, slot: int | None) -> None:
        """Let the chunk write to `slot`, or to the spare cache."""
        if slot == self._chunk_slot:
            return
        self._bind("chunk_", pool.spare() if slot is None else pool.slots(slot, slot + 1))
        self._chunk_slot = slot

    def _bind(self, prefix: str, values: Mapping[str, ort.OrtValue]) -> None:
        for name, value in values.items():
            self.binding.bind_ortvalue_input(f"{prefix}past_key_values.{name}", value)
            self.binding.bind_ortvalue_output(f"{prefix}present.{name}", value)


def _tensors(nodes: Sequence[Any]) -> tuple[TensorInfo, ...]:
    return tuple(TensorInfo(n.name, _DTYPES.get(n.type, n.type), tuple(n.shape)) for n in nodes)
