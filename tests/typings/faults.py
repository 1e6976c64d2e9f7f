"""Mistakes in calls of TensorRT, each with the code of the error that mypy must give there."""

from __future__ import annotations

import tensorrt as trt
import tensorrt_rtx as rtx


class Writer(trt.IStreamWriter):
    """A writer of C++, where the size is an argument."""

    def write(self, data: bytes, size: int) -> int:  # error: override
        return size


def mistakes(network: trt.INetworkDefinition, tensor: trt.ITensor, parser: trt.OnnxParser) -> None:
    """Names that never were, names of TensorRT 10, results unchecked, arguments of a wrong type."""
    builder = trt.Builder(trt.Logger(trt.Logger.WARNING))
    config = builder.create_builder_config()
    config.bulder_optimization_level = 4  # error: attr-defined
    config.set_flag(trt.BuilderFlag.FP16)  # error: attr-defined
    config.set_memory_limit(trt.MemoryPoolType.WORKSPACE, 1)  # error: attr-defined
    config.int8_calibrator = None  # error: attr-defined
    print(trt.IInt8EntropyCalibrator2)  # error: attr-defined
    print(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)  # error: attr-defined
    parser.supports_model(b"")  # error: attr-defined
    softmax = trt.AttentionNormalizationOp.SOFTMAX
    network.add_attention(tensor, tensor, tensor, softmax, True)  # error: deprecated
    network.add_normalization(tensor, tensor, tensor, 1)  # error: deprecated
    memoryview(builder.build_serialized_network(network, config))  # error: arg-type
    config.set_memory_pool_limit("workspace", 1)  # error: arg-type
    config.builder_optimization_level = "high"  # error: assignment
    config.profiling_verbosity = trt.HardwareCompatibilityLevel.NONE  # error: assignment
    builder.create_optimization_profile().set_shape("x", 1, 2, 3)  # error: arg-type
    config.set_timing_cache(config.create_timing_cache(b""))  # error: call-arg
    runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
    print(runtime.deserialize_cuda_engine(b"").num_io_tensors)  # error: union-attr
    config.set_compute_capability(rtx.ComputeCapability.SM89, 0)  # error: attr-defined
    print(rtx.ComputeCapability.SM87)  # error: attr-defined
    print(trt.volume("ab"), trt.nptype(trt.float33))  # error: arg-type, attr-defined
