"""The TensorRT backend: two optimisation profiles of one plan over a KV pool on the GPU."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from edgellama.profiles.profile import Build
from edgellama.profiles.shapes import optimization_profiles
from edgellama.profiles.tensorrt import TensorRt
from edgellama.runtime.allocations import Allocations, aligned
from edgellama.runtime.backend import Logits
from edgellama.runtime.device import Device
from edgellama.runtime.device_budget import require_memory
from edgellama.runtime.device_decode import DeviceDecode
from edgellama.runtime.device_pool import DevicePool
from edgellama.runtime.device_prefill import DevicePrefill
from edgellama.runtime.device_store import DeviceStore
from edgellama.runtime.manifest import EngineError, Manifest
from edgellama.runtime.plan_checks import check_gpu, check_plan, check_version
from edgellama.runtime.staging import InputStaging, LogitsStaging
from edgellama.runtime.step import SlotCopy, Step
from edgellama.runtime.step_bounds import StepBounds
from edgellama.runtime.tensorrt_engine import TensorRtEngine, import_library

_LAYER_CACHES = ("float16", "bfloat16", "float32")  # of TensorRT's cache update layer
# Target -> the types of cache that its graph updates.
KV_DTYPES = {
    "trt-native": _LAYER_CACHES,
    "trt-plain": _LAYER_CACHES,
    "trt-plugin": ("float16", "bfloat16", "int8", "float8_e4m3fn"),
}
_PREFILL, _DECODE = range(2)  # the order of `optimization_profiles`
_GIB = 1024**3
# What an engine with a stripped plan keeps: the graph that has the weights, and their file.
WEIGHT_FILES = ("model.onnx", "model.onnx.data")


class TrtBackend:
    """Owns a plan, the pool on the GPU, and the contexts that run the one over the other.

    Past and present of a run are bound to the same address, so the caches are updated in place.
    All work is on one stream, the decode of a step before its chunk: their contexts never run at
    the same time, so they share the activation memory, and a step waits for the stream once.
    """

    def __init__(
        self, engine: TensorRtEngine, manifest: Manifest, device: Device, owned: ExitStack
    ) -> None:
        """Take the memory and make the contexts of a checked engine.

        `owned` learns at once of everything that is to be released, so that whoever holds it can
        do so at any time.
        """
        kv, limits, settings = manifest.kv, manifest.profile.limits, _settings(manifest)
        prefill, decode = optimization_profiles(limits, kv.capacity)
        self._kv = kv
        self._vocab_size = manifest.model.vocab_size
        self._bounds = StepBounds(
            kv.slots,
            kv.capacity,
            self._vocab_size,
            decode.axes["batch"],
            prefill.axes["sequence"],
        )
        self._owned = owned
        self._run_seconds = 0.0
        self._device = device
        self._stream = stream = device.create_stream()
        owned.callback(device.destroy_stream, stream)
        memory = Allocations(device)
        owned.callback(memory.close)
        self._pool = pool = DevicePool(memory, kv)
        device.clear(pool.address, pool.bytes, stream)
        self._store = DeviceStore(device, stream, memory, pool)
        self._logits = LogitsStaging(memory, slots=kv.slots, vocab_size=self._vocab_size)
        arena_bytes = aligned(engine.activation_bytes)
        arena = memory.on_device(arena_bytes)
        cache_shape = (kv.kv_heads, kv.capacity, kv.head_dim)

        inputs = InputStaging(memory, tokens=limits.prefill_chunk, batch=1, rows=kv.slots)
        context = engine.create_context(_PREFILL, stream, arena, arena_bytes)
        owned.callback(context.close)
        self._prefill = DevicePrefill(
            device, stream, pool, inputs, self._logits.chunk_address, context, cache_shape
        )
        captures = settings.cuda_graphs and engine.captures_itself
        self._decode = DeviceDecode(
            device,
            stream,
            pool,
            InputStaging(memory, tokens=kv.slots, batch=kv.slots, rows=kv.slots),
            self._logits.decode_address,
            lambda: engine.create_context(_DECODE, stream, arena, arena_bytes, captures=captures),
            cache_shape,
            slots=kv.slots,
            cuda_graphs=settings.cuda_graphs,
            captures_itself=engine.captures_itself,
        )
        owned.callback(self._decode.close)
        device.synchronize(stream)

    @classmethod
    def load(
        cls, directory: Path, manifest: Manifest, *, device: Device | None = None
    ) -> TrtBackend:
        """Open the plan of an engine directory on `device`; None takes the first GPU.

        Raises EngineError when the library, the GPU, its memory or the plan is not what the
        manifest needs; then nothing stays allocated.
        """
        kv, settings, build = manifest.kv, _settings(manifest), manifest.profile.build
        known = KV_DTYPES[build.target]
        if kv.dtype not in known:
            raise EngineError(
                f"engine {directory}: kv.dtype is {kv.dtype!r}; target {build.target} updates "
                f"caches of {', '.join(known)}; rebuild the engine with another precision.kv"
            )
        check_version(directory, manifest, import_library(build.backend).__version__)
        device = device if device is not None else _first_gpu()
        gpu = device.properties()
        check_gpu(directory, manifest, gpu)
        plan = directory / manifest.graph
        for name in (manifest.graph, *(WEIGHT_FILES if settings.strip_plan else ())):
            if not (directory / name).is_file():
                raise EngineError(f"{directory / name} is missing; rebuild the engine")
        needs = {"logits": LogitsStaging.device_bytes(kv.slots, manifest.model.vocab_size)}
        weights = 0 if settings.weight_streaming else _weight_bytes(directory, manifest)
        before = {"weights": weights, **needs}
        require_memory(directory, kv, device.available_memory(), before, gpu.name)
        with ExitStack() as owned:
            engine = _open_plan(plan, build, settings, directory)
            owned.callback(engine.close)
            check_plan(plan, manifest, engine)
            needs["activations"] = aligned(engine.activation_bytes)
            require_memory(directory, kv, device.available_memory(), needs, gpu.name)
            backend = cls(engine, manifest, device, owned)
            backend._owned = owned.pop_all()
        return backend

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
        """Seconds since the load of waiting for the device, after everything was enqueued."""
        return self._run_seconds

    def run(self, step: Step) -> Logits:
        """Run one step; returns float32 `[step.num_logits, vocab_size]`, valid until the next.

        Raises ValueError, before anything is enqueued, for a step that is out of bounds.
        """
        self._bounds.check(step)
        for copy in step.copies:
            if isinstance(copy, SlotCopy):
                self._pool.copy(self._device, self._stream, copy)
            else:
                self._store.copy(copy)
        rows, chunk = len(step.decode), step.prefill
        if rows:
            self._decode.enqueue(step)
            self._download(self._logits.decode_address, rows)
        if chunk is not None:
            self._prefill.enqueue(chunk.slot, chunk.tokens, chunk.start, [len(chunk.tokens) - 1])
            if chunk.is_last:
                self._download(self._logits.chunk_address, 1, at=rows)
        self._await()
        return self._logits.host[: step.num_logits]

    def run_tokens(
        self, slot: int, tokens: Sequence[int], start: int, *, is_pinned: bool = False
    ) -> Logits:
        """Feed `tokens` to `slot` at `start`; logits `[len(tokens), vocab_size]`.

        The plan gives the logits of `slots` positions a run, so the chunk runs again for every
        group of that many, and writes the same values to the same cache positions each time.
        `is_pinned` asks for what every run is: there is one form of the weights.
        """
        self._bounds.check_chunk(slot, tokens, start)
        logits = np.empty((len(tokens), self._vocab_size), np.float32)
        for low in range(0, len(tokens), self.slots):
            wanted = range(low, min(low + self.slots, len(tokens)))
            self._prefill.enqueue(slot, tokens, start, wanted)
            self._download(self._logits.chunk_address, len(wanted))
            self._await()
            logits[low : low + len(wanted)] = self._logits.host[: len(wanted)]
        return logits

    def close(self) -> None:
        """Free everything in turn; the backend cannot run afterwards."""
        self._owned.close()

    def _await(self) -> None:
        began = time.perf_counter()
        self._device.synchronize(self._stream)
        self._run_seconds += time.perf_counter() - began

    def _download(self, address: int, rows: int, at: int = 0) -> None:
        self._logits.download(self._device, self._stream, address, rows, at)


def _settings(manifest: Manifest) -> TensorRt:
    settings = manifest.profile.tensorrt
    assert settings is not None  # a profile with such a backend has the table
    return settings


def _weight_bytes(directory: Path, manifest: Manifest) -> int:
    """Return what the weights take: about the plan, or the files that a stripped one is for."""
    stripped = WEIGHT_FILES if _settings(manifest).strip_plan else ()
    return sum((directory / name).stat().st_size for name in (manifest.graph, *stripped))


def _open_plan(plan: Path, build: Build, settings: TensorRt, directory: Path) -> TensorRtEngine:
    budget = None
    if settings.weight_streaming:
        budget = int(settings.weight_streaming_budget_gib * _GIB)
    return TensorRtEngine(
        plan,
        build.backend,
        host_code=settings.version_compatible,
        streaming_budget=budget,
        weights=directory / WEIGHT_FILES[0] if settings.strip_plan else None,
    )


def _first_gpu() -> Device:
    try:
        from edgellama.runtime.cuda import Cuda  # only where a GPU is used
    except ImportError as error:
        raise EngineError(
            f"TensorRT needs cuda-python >= 12.6, which cannot be imported ({error}); install it"
        ) from error
    return Cuda()
