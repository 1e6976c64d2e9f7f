"""The kernels of one engine: what its model, profile and GPU need, compiled beside its graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgellama.optimize.kernels.attention_shape import AttentionShape
from edgellama.optimize.kernels.compile import compile_kernels
from edgellama.optimize.kernels.int4_spec import int4_specs
from edgellama.optimize.kernels.kernel_files import KERNELS_NAME, CompiledKernel, write_kernels
from edgellama.optimize.kernels.kernel_spec import KernelSpec, attention_specs
from edgellama.optimize.kernels.pieces import cuts_pasts
from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import Profile

Progress = Callable[[str, int, int], None]


def model_specs(model: ModelConfig, profile: Profile) -> tuple[KernelSpec, ...]:
    """Return what is compiled for a profile of target trt-plugin that its rules let pass."""
    gpu, precision = profile.device.gpu, profile.precision
    assert gpu is not None
    shape = AttentionShape(
        kv_heads=model.num_kv_heads,
        group=model.num_heads // model.num_kv_heads,
        head_dim=model.head_dim,
        dtype=precision.compute,
        kv_dtype=precision.kv,
    )
    pieces = cuts_pasts(profile.attention_programs, model.num_kv_heads)
    found = attention_specs(shape, gpu.sm, pieces=pieces)
    assert profile.kernels is not None
    return (*found, *int4_specs(precision.compute)) if profile.kernels.int4_linear else found


def write_model_kernels(
    folder: Path,
    model: ModelConfig,
    profile: Profile,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> tuple[CompiledKernel, ...]:
    """Compile the kernels of target trt-plugin into `kernels.zip`; another target has none.

    Raises BuildError where Triton is missing or refuses one.
    """
    if profile.build.target != "trt-plugin":
        return ()
    gpu, wanted = profile.device.gpu, profile.kernels
    assert gpu is not None and wanted is not None
    made = compile_kernels(
        model_specs(model, profile),
        gpu.sm,
        code=wanted.code,
        ptx_version=wanted.ptx,
        cache=cache,
        progress=progress,
    )
    write_kernels(folder / KERNELS_NAME, made)
    return tuple(kernel for kernel, _ in made)
