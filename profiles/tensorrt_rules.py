"""Which versions and knobs of TensorRT a GPU and a target have."""

from __future__ import annotations

from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import Profile
from edgellama.profiles.rule import Rule
from edgellama.profiles.versions import parse_range

# Target -> the versions that have what its graph uses.
_TARGETS = {"trt-native": ">=10.16", "trt-plugin": ">=10.16", "trt-plain": ">=10.3"}
_TILING = ">=10.8"
SMALLEST_HEAD, LARGEST_HEAD, HEAD_STEP = 16, 256, 8


def _is_proper(profile: Profile) -> bool:
    """Whether it is TensorRT itself; TensorRT for RTX counts its versions otherwise."""
    return profile.build.backend == "tensorrt"


def _heads(model: ModelConfig, profile: Profile) -> str | None:
    size = model.head_dim
    if profile.build.target != "trt-native":
        return None
    if SMALLEST_HEAD <= size <= LARGEST_HEAD and size % HEAD_STEP == 0:
        return None
    return (
        f"head_dim is {size}; the attention of target trt-native takes {SMALLEST_HEAD} to "
        f"{LARGEST_HEAD} in steps of {HEAD_STEP}: use build.target 'trt-plain'"
    )


def _gpu_versions(_model: ModelConfig, profile: Profile) -> str | None:
    gpu, knobs = profile.device.gpu, profile.tensorrt
    if gpu is None or knobs is None or not _is_proper(profile):
        return None
    if any(knobs.range.within(supported) for supported in gpu.tensorrt_ranges):
        return None
    listed = " or ".join(repr(text) for text in gpu.tensorrt)
    return (
        f"tensorrt.versions is {knobs.versions!r}, but {gpu.name} is supported by {listed} "
        f"({gpu.sources['tensorrt']}); name versions within one of these"
    )


def _target_versions(_model: ModelConfig, profile: Profile) -> str | None:
    knobs, target = profile.tensorrt, profile.build.target
    if knobs is None or not _is_proper(profile):
        return None
    needed = _TARGETS[target]
    if knobs.range.within(parse_range("target", needed)):
        return None
    other = "" if target == "trt-plain" else ", or build.target 'trt-plain'"
    return (
        f"tensorrt.versions is {knobs.versions!r}, but target {target} needs {needed}: raise it"
        f"{other}"
    )


def _tiling(_model: ModelConfig, profile: Profile) -> str | None:
    knobs = profile.tensorrt
    if knobs is None or not _is_proper(profile) or knobs.tiling == "none":
        return None
    if knobs.range.within(parse_range("tiling", _TILING)):
        return None
    return (
        f"tensorrt.tiling is {knobs.tiling!r} with tensorrt.versions {knobs.versions!r}; it needs "
        f"{_TILING}: leave it out"
    )


def _rtx_gpu(_model: ModelConfig, profile: Profile) -> str | None:
    gpu = profile.device.gpu
    if gpu is None or profile.build.backend != "tensorrt-rtx" or gpu.rtx:
        return None
    return (
        f"build.backend is 'tensorrt-rtx', which does not build for {gpu.name} (compute capability "
        f"{gpu.compute_capability}; {gpu.sources['rtx']}): use backend 'tensorrt', on the device"
    )


def _rtx_knobs(_model: ModelConfig, profile: Profile) -> str | None:
    knobs = profile.tensorrt
    if knobs is None or profile.build.backend != "tensorrt-rtx":
        return None
    no_gpu = "fails where there is no GPU"
    lean = knobs.version_compatible and not knobs.exclude_lean_runtime
    for field, refused, why, needed in (
        ("strip_plan", knobs.strip_plan, no_gpu, "false"),
        ("refit", knobs.refit in ("refit", "refit_identical"), no_gpu, "'none'"),
        (
            "hardware_compatibility",
            knobs.hardware_compatibility != "none",
            "is not supported and would be ignored",
            "'none'",
        ),
        (
            "exclude_lean_runtime",
            lean,
            "fails beside version_compatible: its packages have no lean runtime",
            "true",
        ),
    ):
        if refused:
            return (
                f"tensorrt.{field} is {getattr(knobs, field)!r}, which with backend 'tensorrt-rtx' "
                f"{why}; make it {needed}, or use backend 'tensorrt'"
            )
    return None


def _streaming(_model: ModelConfig, profile: Profile) -> str | None:
    gpu, knobs = profile.device.gpu, profile.tensorrt
    if gpu is None or knobs is None or not (knobs.weight_streaming and gpu.unified_memory):
        return None
    return (
        f"tensorrt.weight_streaming is true, but the memory of {gpu.name} is the CPU's: there is "
        "nothing to stream from; leave it out"
    )


def _jetpack(_model: ModelConfig, profile: Profile) -> str | None:
    gpu, knobs = profile.device.gpu, profile.tensorrt
    if gpu is None or knobs is None or gpu.platform != "jetpack":
        return None
    if knobs.hardware_compatibility == "none":
        return None
    return (
        f"tensorrt.hardware_compatibility is {knobs.hardware_compatibility!r}, which JetPack does "
        "not have: use 'none', the engine is built on the device that runs it"
    )


TENSORRT_RULES = (
    Rule("head-size", "NVIDIA/TensorRT issues 2981 and 4167: fused attention", _heads),
    Rule(
        "gpu-versions",
        "the GPU's own record; TensorRT 11.4.1 guide `10.x to 11.x on Jetson/JetPack`",
        _gpu_versions,
    ),
    Rule(
        "target-versions",
        "TensorRT 10.15.1 release notes: KVCacheUpdate and RotaryEmbedding; 10.16 is the first on "
        "every platform here, and has the plugins of trt-plugin. trt-plain: TensorRT 10.3 of "
        "JetPack 6, the oldest it is made for",
        _target_versions,
    ),
    Rule("tiling", "TensorRT 10.8.0 release notes: tiling optimisation", _tiling),
    Rule("rtx-gpu", "tensorrt_rtx 1.7.1: members of ComputeCapability", _rtx_gpu),
    Rule("rtx-knobs", "measured with tensorrt_rtx 1.7.1 on a machine without a GPU", _rtx_knobs),
    Rule("streaming", "TensorRT developer guide, weight streaming: from host memory", _streaming),
    Rule(
        "jetpack-engines",
        "TensorRT developer guide, hardware compatibility: not supported on JetPack",
        _jetpack,
    ),
)
