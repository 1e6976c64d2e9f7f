"""The table of what a machine with a GPU is asked to prove; a new check is a row."""

from __future__ import annotations

from collections.abc import Sequence

from edgellama.benchmark.check import Check
from edgellama.benchmark.gpu_needs import (
    Passed,
    a_gpu,
    a_twin,
    the_compiler,
    the_kernels,
    the_library,
    the_profiles_gpu,
)

_HERE = "edgellama.benchmark"
_ENGINE = (a_gpu, the_profiles_gpu, the_library)
_BUILT = (*_ENGINE, Passed("build"))
_KERNELS = (a_gpu, the_kernels)
MACHINE = "machine"

# The first one says what the machine is; the order is that of the needs.
CHECKS: tuple[Check, ...] = (
    Check(MACHINE, "which GPU, driver and libraries", f"{_HERE}.gpu_facts:check_machine", (), 120),
    Check(
        "cuda",
        "memory, pinned copies, order of a stream, a captured graph; copy bandwidth",
        f"{_HERE}.gpu_copies:check_cuda",
        (a_gpu,),
        300,
    ),
    Check(
        "kernels",
        "every kernel of the fused attention, in every type and head size, is that of float64",
        f"{_HERE}.gpu_kernels:check_kernels",
        _KERNELS,
        1800,
    ),
    Check(
        "kernel-speed",
        "the attention beside a copy of its bytes and beside every backend of torch's",
        f"{_HERE}.gpu_kernel_speed:check_kernel_speed",
        (*_KERNELS, Passed("kernels")),
        1800,
    ),
    Check(
        "linear-int4",
        "the INT4 linear is right, and beside a copy of its bytes",
        f"{_HERE}.gpu_linear_speed:check_linear_int4",
        _KERNELS,
        900,
    ),
    Check(
        "kernel-model",
        "a decode step of a layer and of whole models with our attention and with torch's",
        f"{_HERE}.gpu_model_step:check_kernel_model",
        (*_KERNELS, Passed("kernels")),
        1200,
    ),
    Check(
        "kernel-tiles",
        "which tiles are fastest on this GPU, as the tables have them",
        f"{_HERE}.gpu_kernel_tiles:check_kernel_tiles",
        (*_KERNELS, Passed("kernels")),
        1800,
    ),
    Check(
        "onnxruntime",
        "ONNX Runtime's GroupQueryAttention on CUDA, where it is installed, beside ours",
        f"{_HERE}.gpu_onnxruntime:check_onnxruntime",
        (a_gpu,),
        600,
    ),
    Check(
        "bundle",
        "a checkpoint becomes a graph, or the given bundle is intact",
        f"{_HERE}.gpu_bundle:check_bundle",
        (*_ENGINE, the_compiler),
        7200,
        per_engine=True,
    ),
    Check(
        "build",
        "the engine is built and verified on the GPU; a second build finds the timing cache",
        f"{_HERE}.gpu_build:check_build",
        (*_ENGINE, Passed("bundle")),
        7200,
        per_engine=True,
    ),
    Check(
        "numerics",
        "logits and greedy tokens are the model's own; slot reuse; CUDA graphs change nothing",
        f"{_HERE}.gpu_numerics:check_numerics",
        _BUILT,
        1800,
        per_engine=True,
    ),
    Check(
        "agreement",
        "targets trt-native and trt-plain say the same; caches are updated in place",
        f"{_HERE}.gpu_agreement:check_agreement",
        (*_BUILT, a_twin),
        1800,
        per_engine=True,
    ),
    Check(
        "serving",
        "concurrent requests get the answers that each gets alone",
        f"{_HERE}.gpu_serving:check_serving",
        _BUILT,
        1800,
        per_engine=True,
    ),
    Check(
        "latency",
        "`bench latency`, and the decode step beside the bandwidth of a copy",
        f"{_HERE}.gpu_latency:check_latency",
        (*_BUILT, Passed("cuda")),
        1800,
        per_engine=True,
    ),
)


def chosen_checks(names: Sequence[str]) -> tuple[Check, ...]:
    """Return the checks of these names, with what they follow from; all where none is named."""
    wanted = {MACHINE, *(names or (check.name for check in CHECKS))}
    for check in reversed(CHECKS):
        if check.name in wanted:
            wanted |= {need.check for need in check.needs if isinstance(need, Passed)}
    return tuple(check for check in CHECKS if check.name in wanted)
