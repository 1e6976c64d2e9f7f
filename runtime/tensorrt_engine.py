"""TensorRT and TensorRT for RTX, behind the calls that the backend needs; their only user.

One code for 10.3 to 11.x and for RTX 1.7: what they do not share is asked for by name.
"""

from __future__ import annotations

import mmap
from collections import deque
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellama.runtime.manifest import EngineError, TensorInfo

if TYPE_CHECKING:
    import tensorrt as trt

# profiles' name of the library -> its module.
MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8_e4m3fn",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
}
_KEPT_ERRORS = 4  # of the log; the first ones have the cause


def import_library(backend: str) -> Any:
    """Return the module of `tensorrt` or `tensorrt-rtx`; raises EngineError with what to do."""
    try:
        return import_module(MODULES[backend])
    except (ImportError, OSError) as error:  # OSError: the package is there, its libraries are not
        raise EngineError(
            f"the engine needs {backend}, and Python module {MODULES[backend]} cannot be imported "
            f"({error}); install 'edgellama[{backend}]', on a Jetson the TensorRT of its JetPack"
        ) from error


def _sizes(shape: trt.Dims) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in range(len(shape)))


def _make_log(library: Any) -> tuple[Any, deque[str]]:
    """Return a logger and where it keeps the errors: TensorRT tells a failure's cause nowhere
    else."""
    errors: deque[str] = deque(maxlen=_KEPT_ERRORS)

    class Log(library.ILogger):  # type: ignore[misc]  # the library is known when it runs
        def __init__(self) -> None:
            library.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity <= library.ILogger.ERROR:
                errors.append(msg.strip())

    return Log(), errors


class TensorRtEngine:
    """A plan in the memory of the GPU. `close` it after its contexts."""

    def __init__(
        self,
        plan: Path,
        backend: str,
        *,
        host_code: bool,
        streaming_budget: int | None,
        weights: Path | None = None,
    ) -> None:
        """Load a plan; raises EngineError with TensorRT's own errors.

        `host_code` allows code of the plan on the CPU, which a version-compatible one has.
        `streaming_budget` None keeps all weights on the GPU, 0 leaves the budget to TensorRT.
        `weights` is the ONNX file that a stripped plan gets its weights from.
        """
        library = import_library(backend)
        self._trt: Any = library
        self._what = f"{plan}: {backend} {library.__version__}"
        log, self._errors = _make_log(library)
        self._runtime: trt.Runtime | None = library.Runtime(log)
        try:
            assert self._runtime is not None
            if host_code:
                self._runtime.engine_host_code_allowed = True
            self._engine: trt.ICudaEngine | None = self._read(plan)
            if weights is not None and not self._refit(weights, log):
                raise self.error(f"cannot take its weights from {weights}")
            if streaming_budget is not None:
                self._stream_weights(streaming_budget)
        except BaseException:
            self.close()
            raise

    def _read(self, plan: Path) -> trt.ICudaEngine:
        assert self._runtime is not None
        # A mapped file is a buffer that every version takes, and no second copy of gigabytes.
        with (
            plan.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        ):
            engine: trt.ICudaEngine | None = self._runtime.deserialize_cuda_engine(mapped)
        if engine is None:
            raise self.error("cannot load it")
        return engine

    def _refit(self, graph: Path, log: Any) -> bool:
        """Give a stripped plan the weights of the graph that it was built from."""
        refitter: trt.Refitter = self._trt.Refitter(self.engine, log)
        parser: trt.OnnxParserRefitter = self._trt.OnnxParserRefitter(refitter, log)
        return parser.refit_from_file(str(graph)) and refitter.refit_cuda_engine()

    def _stream_weights(self, budget: int) -> None:
        largest = self.engine.streamable_weights_size
        if largest <= 0:
            raise EngineError(
                f"{self._what}: tensorrt.weight_streaming is true, but the plan has no weights to "
                "stream; rebuild the engine"
            )
        # More than there is would be refused by some versions and clamped by others.
        wanted = min(budget or self.engine.get_weight_streaming_automatic_budget(), largest)
        self.engine.weight_streaming_budget_v2 = wanted
        if self.engine.weight_streaming_budget_v2 != wanted:  # the setter does not tell
            raise self.error(f"refused a weight streaming budget of {wanted} bytes")

    @property
    def engine(self) -> trt.ICudaEngine:
        """The engine, which must not have been closed.

        Never kept in a variable: the traceback of an error would hold it, and its memory.
        """
        assert self._engine is not None
        return self._engine

    def error(self, what: str) -> EngineError:
        """Return an error that ends with what TensorRT logged."""
        text = f"{self._what} {what}"
        return EngineError(": ".join([text, " | ".join(self._errors)]) if self._errors else text)

    def tensors(self) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
        """Return the inputs and the outputs; a dynamic size is "?"."""
        found: dict[bool, list[TensorInfo]] = {True: [], False: []}
        for index in range(self.engine.num_io_tensors):
            name = self.engine.get_tensor_name(index)
            if self.engine.get_tensor_location(name) != self._trt.TensorLocation.DEVICE:
                raise EngineError(
                    f"{self._what} wants {name} in the memory of the host, as if it were a shape; "
                    "rebuild the engine"
                )
            dtype = self.engine.get_tensor_dtype(name).name
            sizes = _sizes(self.engine.get_tensor_shape(name))
            shape = tuple("?" if size < 0 else size for size in sizes)
            is_input = self.engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
            found[is_input].append(TensorInfo(name, _DTYPES.get(dtype, dtype), shape))
        return tuple(found[True]), tuple(found[False])

    def profile_shape(self, name: str, profile: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the smallest and the largest shape of an input in an optimisation profile."""
        low, _, high = self.engine.get_tensor_profile_shape(name, profile)
        return _sizes(low), _sizes(high)

    @property
    def num_profiles(self) -> int:
        """Optimisation profiles of the plan."""
        return self.engine.num_optimization_profiles

    @property
    def activation_bytes(self) -> int:
        """Memory that a context needs while it runs, whatever its profile."""
        return self.engine.device_memory_size_v2

    def aliases(self, output: str) -> str | None:
        """Return the input whose memory an output must share; None before TensorRT 10.15."""
        if not hasattr(self.engine, "get_aliased_input_tensor"):
            return None  # nothing to ask: those versions have no layer that updates in place
        return self.engine.get_aliased_input_tensor(output) or ""

    @property
    def captures_itself(self) -> bool:
        """Whether the library captures CUDA graphs of its own: TensorRT for RTX.

        It compiles kernels while it runs, so a capture from outside could keep the slow ones.
        """
        return hasattr(self._trt, "CudaGraphStrategy")

    def create_context(
        self, profile: int, stream: int, memory: int, size: int, *, captures: bool = False
    ) -> EngineContext:
        """Return a context for one optimisation profile that computes in `[memory, memory + size)`.

        Contexts that never run at the same time may share the memory. `captures` makes one of a
        library that `captures_itself` do so.
        """
        context = EngineContext(self, self._new_context(captures))
        try:
            context.prepare(profile, stream, memory, size)
        except BaseException:
            context.close()
            raise
        return context

    def _new_context(self, captures: bool) -> trt.IExecutionContext | None:
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not captures:
            return self.engine.create_execution_context(strategy)
        settings: Any = self.engine.create_runtime_config()
        settings.set_execution_context_allocation_strategy(strategy)
        settings.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self.engine.create_execution_context(settings)

    def close(self) -> None:
        """Free the weights; again does nothing."""
        self._engine = None  # the bindings free what nobody refers to
        self._runtime = None


class EngineContext:
    """One execution context: shapes and addresses by name, then `enqueue`."""

    def __init__(self, owner: TensorRtEngine, context: trt.IExecutionContext | None) -> None:
        if context is None:
            raise owner.error("cannot make an execution context")
        self._owner = owner
        self._context: trt.IExecutionContext | None = context

    def prepare(self, profile: int, stream: int, memory: int, size: int) -> None:
        """Choose the optimisation profile, before all else, and the activation memory."""
        if not self._open.set_optimization_profile_async(profile, stream):
            raise self._owner.error(f"cannot take optimisation profile {profile}")
        self._open.set_device_memory(memory, size)

    @property
    def _open(self) -> trt.IExecutionContext:
        assert self._context is not None
        return self._context

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Give an input its shape."""
        if not self._open.set_input_shape(name, shape):
            raise self._owner.error(f"refused the shape {list(shape)} of {name}")

    def set_address(self, name: str, address: int) -> None:
        """Say where a tensor lies on the GPU."""
        if not self._open.set_tensor_address(name, address):
            raise self._owner.error(f"refused the address of {name}")

    def enqueue(self, stream: int) -> None:
        """Run once, in the stream's order."""
        if not self._open.execute_async_v3(stream):
            raise self._owner.error("failed to run")

    def close(self) -> None:
        """Free the context; again does nothing."""
        self._context = None
