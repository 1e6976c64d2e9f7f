"""What the signatures of the bindings leave unsaid, read from NVIDIA's documentation."""

from __future__ import annotations

# Methods that return None where they fail.
NULLABLE = {
    ("Builder", "build_serialized_network"),
    ("Builder", "build_engine_with_config"),
    ("Runtime", "deserialize_cuda_engine"),
    ("ICudaEngine", "create_execution_context"),
    ("ICudaEngine", "create_engine_inspector"),
    ("IBuilderConfig", "get_timing_cache"),
    ("IPluginRegistry", "get_creator"),
    ("IPluginCreatorV3One", "create_plugin"),
}
NULLABLE_FUNCTIONS = {"get_plugin_registry", "get_builder_plugin_registry"}
# Properties with a setter only, which stubgen drops.
WRITE_ONLY = {
    "Builder": {"gpu_allocator": "IGpuAllocator | None"},
    "Runtime": {"gpu_allocator": "IGpuAllocator | None"},
    "IExecutionContext": {"device_memory": "int"},
    "ISymExpr": {"type": "PluginArgType", "dtype": "PluginArgDataType", "expr": "IDimensionExpr"},
}
# Properties that also take None.
OPTIONAL_PROPERTIES = {
    ("IBuilderConfig", "progress_monitor"),
    ("Builder", "error_recorder"),
    ("Runtime", "error_recorder"),
}
# Conversions that the bindings make of an argument by themselves.
CONVERTED = {
    **dict.fromkeys(
        ("Dims", "Dims2", "DimsHW", "Dims3", "Dims4", "Permutation"),
        "collections.abc.Sequence[int]",
    ),
    "Weights": "numpy.ndarray[typing.Any, typing.Any]",
    "FallbackString": "str",
}
# Interfaces that a user implements: TensorRT calls them, with plain numbers.
IMPLEMENTED = (
    "IDebugListener",
    "IErrorRecorder",
    "IGpuAllocator",
    "IGpuAsyncAllocator",
    "ILogger",
    "IOutputAllocator",
    "IPluginCreator",
    "IPluginResource",
    "IPluginV",
    "IProfiler",
    "IProgressMonitor",
    "IStreamReader",
    "IStreamWriter",
)
# Bare generics of a signature, which strict typing refuses.
PARAMETERS = {
    "tuple": "tuple[int, ...]",
    "list": "list[int]",
    "collections.abc.Iterable": "collections.abc.Iterable[typing.Any]",
    "collections.abc.Callable": "collections.abc.Callable[..., typing.Any]",
}
PLUGIN_TUPLE = (
    "tuple[collections.abc.Sequence[ITensor], collections.abc.Sequence[ITensor], IPluginV3]"
)
# (class, method, argument) -> the type that it takes; what the bindings name is wrong or too wide.
ARGUMENTS = {
    ("", "init_libnvinfer_plugins", "logger"): "ILogger | None",
    ("INetworkDefinition", "add_plugin", "tuple"): PLUGIN_TUPLE,
    ("IProgressMonitor", "phase_start", "parent_phase"): "str | None",
}
# Whole classes in place of what stubgen made of them.
CLASSES = {
    "NodeIndices": "class NodeIndices(list[int]): ...",
    "Logger.Severity": "Severity = ILogger.Severity",
}
# Methods that TensorRT calls otherwise than their signature in C++ says.
METHODS = {("IStreamWriter", "write"): "def write(self, data: bytes) -> int: ..."}
# Methods that the package's own __init__.py sets.
ENTER = "def __enter__(self) -> typing.Self: ..."
EXIT = "def __exit__(self, exc_type: object, exc_value: object, traceback: object) -> None: ..."
BUFFER = "def __buffer__(self, flags: int, /) -> memoryview: ..."
FUNCTIONS = """
__version__: str
def volume(iterable: collections.abc.Iterable[int]) -> int: ...
def nptype(trt_type: DataType) -> type[numpy.generic]: ...
"""
