"""What the kernels of target `trt-plugin` are made for: checked before any work."""

from __future__ import annotations

from edgellama.profiles.kernels import (
    FP8_SINCE,
    HEAD_SIZES,
    LARGEST_GROUP,
    LINEAR_BLOCK,
    PTX_SINCE,
)
from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import Profile
from edgellama.profiles.rule import Rule

_INT4 = ("int4_rtn", "int4_awq")


def _is_plugin(profile: Profile) -> bool:
    return profile.build.target == "trt-plugin"


def _backend(_model: ModelConfig, profile: Profile) -> str | None:
    if not _is_plugin(profile) or profile.build.backend == "tensorrt":
        return None
    return (
        f"build.backend is {profile.build.backend!r} with build.target 'trt-plugin'; it has no "
        "plugins whose kernels are in the plan: use backend 'tensorrt', or target 'trt-native'"
    )


def _sm(_model: ModelConfig, profile: Profile) -> str | None:
    gpu = profile.device.gpu
    if not _is_plugin(profile) or gpu is None or gpu.sm in PTX_SINCE:
        return None
    listed = ", ".join(f"{sm / 10}" for sm in PTX_SINCE)
    return (
        f"{gpu.name} has compute capability {gpu.compute_capability}; the kernels of target "
        f"trt-plugin are compiled for {listed}: use build.target 'trt-native' or 'trt-plain'"
    )


def _heads(model: ModelConfig, profile: Profile) -> str | None:
    if not _is_plugin(profile):
        return None
    group = model.num_heads // model.num_kv_heads
    if model.head_dim not in HEAD_SIZES:
        sizes = ", ".join(map(str, HEAD_SIZES))
        return (
            f"head_dim is {model.head_dim}; the attention of target trt-plugin takes {sizes}: use "
            "build.target 'trt-native' or 'trt-plain'"
        )
    if group > LARGEST_GROUP:
        return (
            f"num_attention_heads / num_key_value_heads is {group}; the attention of target "
            f"trt-plugin takes up to {LARGEST_GROUP}: use build.target 'trt-native'"
        )
    return None


def _cache(_model: ModelConfig, profile: Profile) -> str | None:
    gpu, precision = profile.device.gpu, profile.precision
    if not _is_plugin(profile) or gpu is None:
        return None
    if precision.kv == "fp8" and gpu.sm < FP8_SINCE:
        return (
            f"precision.kv is 'fp8', but {gpu.name} (compute capability {gpu.compute_capability}) "
            f"has no E4M3; it needs {FP8_SINCE / 10} or later: use kv 'int8'"
        )
    if precision.kv not in ("fp8", "int8", precision.compute):
        return (
            f"precision.kv is {precision.kv!r} with precision.compute {precision.compute!r}; the "
            f"cache of target trt-plugin is 'fp8', 'int8' or {precision.compute!r}"
        )
    return None


def _ptx(_model: ModelConfig, profile: Profile) -> str | None:
    gpu, kernels = profile.device.gpu, profile.kernels
    if gpu is None or kernels is None or kernels.ptx is None:
        return None
    since = PTX_SINCE.get(gpu.sm)
    if since is None or kernels.ptx >= since:
        return None
    return (
        f"kernels.ptx_version is {kernels.ptx_version!r}; kernels for compute capability "
        f"{gpu.compute_capability} need {since[0]}.{since[1]} or later: raise it, or use code "
        "'cubin'"
    )


def _linear(_model: ModelConfig, profile: Profile) -> str | None:
    kernels, precision = profile.kernels, profile.precision
    if kernels is None or not kernels.int4_linear:
        return None
    if precision.weights in _INT4 and precision.block_size == LINEAR_BLOCK:
        return None
    return (
        f"kernels.int4_linear is true with precision.weights {precision.weights!r} and block_size "
        f"{precision.block_size}; the kernel takes INT4 in blocks of {LINEAR_BLOCK}: set "
        "int4_linear to false, or the precision to that"
    )


def _hardware(_model: ModelConfig, profile: Profile) -> str | None:
    knobs = profile.tensorrt
    if not _is_plugin(profile) or knobs is None or knobs.hardware_compatibility == "none":
        return None
    return (
        f"tensorrt.hardware_compatibility is {knobs.hardware_compatibility!r}, but the kernels of "
        "target trt-plugin are compiled for one compute capability: use 'none', or target "
        "'trt-native'"
    )


KERNEL_RULES = (
    Rule(
        "plugin-backend",
        "tensorrt_rtx 1.7.1: no module plugin; TensorRT 10.9 release notes: plugins ahead of time",
        _backend,
    ),
    Rule("kernel-gpu", "docs/measurements/kernels.md: what was compiled, and without spills", _sm),
    Rule("kernel-hardware", "CUDA programming guide: cubins run on one architecture", _hardware),
    Rule("kernel-heads", "optimize/kernels: sizes of a tile", _heads),
    Rule("kernel-cache", "PTX ISA, cvt: E4M3 from sm_89 on", _cache),
    Rule(
        "kernel-ptx", "PTX ISA, release notes: the version of an architecture or instruction", _ptx
    ),
    Rule("kernel-linear", "optimize/kernels/int4_linear.py: one scale for 128 inputs", _linear),
)
