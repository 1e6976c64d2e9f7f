"""What an engine for ONNX Runtime cannot be."""

from __future__ import annotations

from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import BLOCK_SIZES, Profile
from edgellama.profiles.rule import Rule, linear_inputs

_KV = ("fp32", "int8")


def is_ort(profile: Profile) -> bool:
    """Whether ONNX Runtime runs the engine."""
    return profile.build.target == "ort"


def _device(_model: ModelConfig, profile: Profile) -> str | None:
    if is_ort(profile) and profile.device.kind != "cpu":
        return (
            f"build.target is 'ort', but device.kind is {profile.device.kind!r}; its graph is made "
            "for the operators of a cpu: use a target trt-* on a gpu"
        )
    return None


def _kv(_model: ModelConfig, profile: Profile) -> str | None:
    kv = profile.precision.kv
    if is_ort(profile) and kv not in _KV:
        return (
            f"precision.kv is {kv!r}; attention of target ort on a cpu has caches of "
            f"{' and '.join(_KV)} only. `edgellama export --kv-precision {kv}` writes the portable "
            "model for other runtimes"
        )
    return None


def _compute(_model: ModelConfig, profile: Profile) -> str | None:
    compute = profile.precision.compute
    if is_ort(profile) and compute != "fp32":
        return (
            f"precision.compute is {compute!r}; target ort computes in fp32: leave it out, or use "
            "a target trt-* on a gpu"
        )
    return None


def dividing_blocks(model: ModelConfig) -> str:
    """Name the block sizes that divide every linear's inputs, as the start of advice."""
    sizes = [
        str(size)
        for size in BLOCK_SIZES
        if not any(width % size for _, width in linear_inputs(model))
    ]
    return f"block_size {' or '.join(sizes)}, or " if sizes else ""


def _awq_blocks(model: ModelConfig, profile: Profile) -> str | None:
    precision = profile.precision
    if not is_ort(profile) or precision.weights != "int4_awq":
        return None
    for name, width in linear_inputs(model):
        if width % precision.block_size:
            return (
                f"precision.weights is 'int4_awq' with block_size {precision.block_size}, but "
                f"{name} {width} is no multiple of it; use {dividing_blocks(model)}weights "
                "'int4_rtn', which pads"
            )
    return None


ORT_RULES = (
    Rule("ort-device", "runtime of this project: target ort is proved on a cpu only", _device),
    Rule("ort-cache", "ONNX Runtime 1.31, GroupQueryAttention of the CPU provider", _kv),
    Rule("ort-compute", "ONNX Runtime 1.31, operators of the CPU provider", _compute),
    Rule("awq-blocks", "modelopt 0.47, INT4 AWQ: whole blocks of inputs", _awq_blocks),
)
