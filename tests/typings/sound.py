"""A build and a load as they should be: `test_typings.py` wants nothing to be said about them."""

from __future__ import annotations

from pathlib import Path

import tensorrt as trt


class Monitor(trt.IProgressMonitor):
    """Goes on whatever happens."""

    def __init__(self) -> None:
        trt.IProgressMonitor.__init__(self)

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """A phase began."""

    def step_complete(self, phase_name: str, step: int) -> bool:
        """Return whether to go on."""
        return True

    def phase_finish(self, phase_name: str) -> None:
        """A phase ended."""


class Writer(trt.IStreamWriter):
    """Counts what it is given."""

    def __init__(self) -> None:
        trt.IStreamWriter.__init__(self)
        self.bytes = 0

    def write(self, data: bytes) -> int:
        """Return the bytes taken."""
        self.bytes += len(data)
        return len(data)


def build(graph: Path, plan: Path, cache: bytes) -> None:
    """Parse, configure, build, to a stream and to memory."""
    log = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        raise ValueError([parser.get_error(i).desc() for i in range(parser.num_errors)])
    config = builder.create_builder_config()
    config.builder_optimization_level = 4
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 30)
    config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
    config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    config.progress_monitor = Monitor()
    if not config.set_timing_cache(config.create_timing_cache(cache), ignore_mismatch=False):
        raise ValueError("another version's cache")
    profile = builder.create_optimization_profile()
    profile.set_shape("input_ids", (1, 1), (1, 128), (1, 512))
    config.add_optimization_profile(profile)
    if not builder.build_serialized_network_to_stream(network, config, Writer()):
        raise ValueError("no plan")
    content = builder.build_serialized_network(network, config)
    if content is not None:
        plan.write_bytes(memoryview(content))


def load(plan: Path, addresses: dict[str, int], stream: int) -> str:
    """Load a plan, run it once, and describe it."""
    runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise ValueError("no engine")
    context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    if context is None:
        raise ValueError("no context")
    context.set_optimization_profile_async(1, stream)
    context.set_input_shape("input_ids", (4, 1))
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        context.set_tensor_address(name, addresses[name])
    if not context.execute_async_v3(stream):
        raise ValueError("not enqueued")
    inspector = engine.create_engine_inspector()
    assert inspector is not None
    return inspector.get_engine_information(trt.LayerInformationFormat.JSON)
