"""What the double of TensorRT answers: a plan is an ONNX file, which ONNX Runtime's CPU runs.

The rules of the real library that can be known are kept: a context runs only with its profile,
memory, shapes inside the profile's ranges, and aligned addresses set; a capture needs a run with
the same shapes before it; and a context whose graph lives is not touched any more.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from host_cuda import HostCuda
from recorded_tensorrt import RecordedTensorRt

from edgellama.profiles.profile import Limits
from edgellama.profiles.shapes import optimization_profiles
from edgellama.runtime.device import ALIGNMENT

# ONNX Runtime's name -> TensorRT's and numpy's; what numpy has not does not run here.
_TYPES: Mapping[str, tuple[str, Any]] = {
    "tensor(float)": ("FLOAT", np.float32),
    "tensor(float16)": ("HALF", np.float16),
    "tensor(bfloat16)": ("BF16", None),
    "tensor(int32)": ("INT32", np.int32),
    "tensor(int64)": ("INT64", np.int64),
    "tensor(int8)": ("INT8", np.int8),
    "tensor(uint8)": ("UINT8", np.uint8),
    "tensor(float8e4m3fn)": ("FP8", None),
}
_ACTIVATIONS = 1000  # bytes; no multiple of the alignment


@dataclass
class OnnxAnswers:
    """The table of answers; its fields are what a test may plant."""

    cuda: HostCuda
    limits: Limits
    aliases: Mapping[str, str] = field(default_factory=dict)
    host_tensors: tuple[str, ...] = ()
    num_profiles: int = 2
    smallest: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    loads: bool = True
    streamable: int = 0
    budget: int | None = None
    refuses: Callable[[str], bool] = lambda name: False
    double: RecordedTensorRt | None = None
    log: Any = None

    def table(self) -> dict[str, Callable[..., Any]]:
        """Return the answers by `Class.method`."""
        return {
            "ILogger.__init__": lambda this: None,
            "Runtime.__init__": self._runtime,
            "Runtime.engine_host_code_allowed=": lambda this, value: None,
            "Runtime.deserialize_cuda_engine": self._deserialize,
            "Refitter.__init__": lambda this, engine, log: None,
            "Refitter.refit_cuda_engine": self._refit,
            "OnnxParserRefitter.__init__": lambda this, refitter, log: None,
            "OnnxParserRefitter.refit_from_file": self._refit_from_file,
            "Dims.__len__": lambda this: len(this.state.sizes),
            "Dims.__getitem__": lambda this, axis: this.state.sizes[axis],
            "ICudaEngine.num_io_tensors": lambda this: len(this.state.nodes),
            "ICudaEngine.num_optimization_profiles": lambda this: self.num_profiles,
            "ICudaEngine.device_memory_size_v2": lambda this: _ACTIVATIONS,
            "ICudaEngine.get_tensor_name": lambda this, index: list(this.state.nodes)[index],
            "ICudaEngine.get_tensor_mode": self._mode,
            "ICudaEngine.get_tensor_location": self._location,
            "ICudaEngine.get_tensor_dtype": self._dtype,
            "ICudaEngine.get_tensor_shape": self._shape,
            "ICudaEngine.get_tensor_profile_shape": self._profile_shape,
            "ICudaEngine.get_aliased_input_tensor": self._alias,
            "ICudaEngine.streamable_weights_size": lambda this: self.streamable,
            "ICudaEngine.get_weight_streaming_automatic_budget": lambda this: 7,
            "ICudaEngine.weight_streaming_budget_v2": lambda this: (
                self.streamable if self.budget is None else self.budget
            ),
            "ICudaEngine.weight_streaming_budget_v2=": self._set_budget,
            "ICudaEngine.create_runtime_config": lambda this: self._make(
                "IRuntimeConfig", strategy=None
            ),
            "ICudaEngine.create_execution_context": self._context,
            "IRuntimeConfig.set_execution_context_allocation_strategy": self._user_managed,
            "IRuntimeConfig.cuda_graph_strategy=": lambda this, value: None,
            "IExecutionContext.set_optimization_profile_async": self._set_profile,
            "IExecutionContext.set_device_memory": self._set_memory,
            "IExecutionContext.set_input_shape": self._set_shape,
            "IExecutionContext.set_tensor_address": self._set_address,
            "IExecutionContext.execute_async_v3": self._execute,
        }

    def _make(self, name: str, **state: Any) -> Any:
        assert self.double is not None
        return self.double.make(name, **state)

    def _enum(self, kind: str, name: str) -> Any:
        assert self.double is not None
        return getattr(self.double.module, kind)[name]

    def _refuse(self, name: str, why: str = "planted") -> bool:
        """Log an error as TensorRT does before it returns False or None."""
        self.log.log(self._enum_severity("INFO"), "not this")
        self.log.log(self._enum_severity("ERROR"), f"{name}: {why}")
        return False

    def _enum_severity(self, name: str) -> Any:
        assert self.double is not None
        return self.double.module.ILogger.Severity[name]

    def _runtime(self, this: Any, log: Any) -> None:
        self.log = log

    def _deserialize(self, this: Any, plan: Any) -> Any:
        if not self.loads:
            return self._refuse("deserialize", "magic tag") or None
        options = ort.SessionOptions()
        options.log_severity_level = 3  # it warns that caches are not updated in place
        session = ort.InferenceSession(bytes(plan), options, providers=["CPUExecutionProvider"])
        nodes = {node.name: node for node in (*session.get_inputs(), *session.get_outputs())}
        inputs = [node.name for node in session.get_inputs()]
        return self._make("ICudaEngine", session=session, nodes=nodes, inputs=inputs)

    def _refit_from_file(self, this: Any, graph: str) -> bool:
        if self.refuses("refit_from_file") or not Path(graph).is_file():
            return self._refuse("refit_from_file")
        return True

    def _refit(self, this: Any) -> bool:
        return not self.refuses("refit_cuda_engine") or self._refuse("refit_cuda_engine")

    def _mode(self, this: Any, name: str) -> Any:
        return self._enum("TensorIOMode", "INPUT" if name in this.state.inputs else "OUTPUT")

    def _location(self, this: Any, name: str) -> Any:
        return self._enum("TensorLocation", "HOST" if name in self.host_tensors else "DEVICE")

    def _dtype(self, this: Any, name: str) -> Any:
        return self._enum("DataType", _TYPES[this.state.nodes[name].type][0])

    def _dims(self, sizes: tuple[int, ...]) -> Any:
        return self._make("Dims", sizes=sizes)

    def _shape(self, this: Any, name: str) -> Any:
        shape = this.state.nodes[name].shape
        return self._dims(tuple(size if isinstance(size, int) else -1 for size in shape))

    def _ranges(self, this: Any, name: str, profile: int) -> tuple[tuple[int, ...], ...]:
        return optimization_profiles(self.limits, self.limits.capacity)[profile].shapes(
            this.state.nodes[name].shape
        )

    def _profile_shape(self, this: Any, name: str, profile: int) -> list[Any]:
        low, best, high = self._ranges(this, name, profile)
        return [self._dims(sizes) for sizes in (self.smallest.get(name, low), best, high)]

    def _alias(self, this: Any, name: str) -> str:
        assert name not in this.state.inputs
        return self.aliases.get(name, name.replace("present", "past_key_values"))

    def _set_budget(self, this: Any, value: int) -> None:
        if not self.refuses("weight_streaming_budget_v2"):
            self.budget = value

    def _user_managed(self, this: Any, strategy: Any) -> None:
        this.state.strategy = strategy

    def _context(self, this: Any, how: Any) -> Any:
        strategy = getattr(getattr(how, "state", None), "strategy", how)
        assert strategy == self._enum("ExecutionContextAllocationStrategy", "USER_MANAGED")
        if self.refuses("create_execution_context"):
            return self._refuse("create_execution_context") or None
        return self._make(
            "IExecutionContext",
            engine=this,
            profile=None,
            memory=0,
            shapes={},
            addresses={},
            ran=[],
            is_captured=False,
        )

    def _set_profile(self, this: Any, profile: int, stream: int) -> bool:
        assert stream in self.cuda.streams
        if self.refuses("set_optimization_profile_async"):
            return self._refuse("set_optimization_profile_async")
        this.state.profile = profile
        return True

    def _set_memory(self, this: Any, memory: int, size: int) -> None:
        assert memory % ALIGNMENT == 0 and size >= _ACTIVATIONS
        self.cuda.check_device(memory, size)
        this.state.memory = memory

    def _set_shape(self, this: Any, name: str, shape: tuple[int, ...]) -> bool:
        assert not this.state.is_captured, "a graph of this context lives"
        if self.refuses("set_input_shape"):
            return self._refuse("set_input_shape")
        low, _, high = self._ranges(this.state.engine, name, this.state.profile)
        fits = all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))
        this.state.shapes[name] = tuple(shape)
        return fits or self._refuse("set_input_shape", f"{name} {shape} is out of range")

    def _set_address(self, this: Any, name: str, address: int) -> bool:
        assert not this.state.is_captured, "a graph of this context lives"
        assert name in this.state.engine.state.nodes and address % ALIGNMENT == 0
        if self.refuses("set_tensor_address"):
            return self._refuse("set_tensor_address")
        this.state.addresses[name] = address
        return True

    def _execute(self, this: Any, stream: int) -> bool:
        state, engine = this.state, this.state.engine.state
        assert stream, "the default stream"
        if self.refuses("execute_async_v3"):
            return self._refuse("execute_async_v3")
        missing = [name for name in engine.inputs if name not in state.shapes]
        missing += [name for name in engine.nodes if name not in state.addresses]
        if missing or not state.memory:
            return self._refuse("execute_async_v3", f"{missing} not set")
        now = (dict(state.shapes), dict(state.addresses))
        if self.cuda.is_capturing:
            if now not in state.ran:
                return self._refuse("execute_async_v3", "captured before its first run")
            state.is_captured = True
        state.ran.append(now)
        self.cuda.submit(stream, lambda: self._compute(engine, *now))
        return True

    def _compute(self, engine: Any, shapes: dict[str, tuple[int, ...]], at: dict[str, int]) -> None:
        def memory(name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
            dtype = np.dtype(_TYPES[engine.nodes[name].type][1])
            size = math.prod(shape) * dtype.itemsize
            self.cuda.check_device(at[name], size)
            raw = (ctypes.c_char * size).from_address(at[name])
            return np.frombuffer(raw, dtype).reshape(shape)

        names = [name for name in engine.nodes if name not in engine.inputs]
        feeds = {name: memory(name, shapes[name]) for name in engine.inputs}
        for name, value in zip(names, engine.session.run(names, feeds), strict=True):
            memory(name, value.shape)[...] = value
