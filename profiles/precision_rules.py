"""Which number formats a GPU, TensorRT and its graphs have together."""

from __future__ import annotations

from collections.abc import Callable

from edgellama.profiles.model import ModelConfig
from edgellama.profiles.ort_rules import dividing_blocks
from edgellama.profiles.profile import BLOCK_SIZES, FLOAT_PRECISIONS, Profile
from edgellama.profiles.rule import Rule, linear_inputs

# Precision -> the format of `Gpu.formats` that computes it.
_FORMAT_OF = {
    "int4_rtn": "int4",
    "int4_awq": "int4",
    "int8": "int8",
    "int8_sq": "int8",
    "fp8": "fp8",
    "bf16": "bf16",
}
_BLOCKS = ("int4_rtn", "int4_awq", "int8")
_COMPUTE = ("fp16", "bf16")


def _format(name: str, since: str, instead: str) -> Callable[[ModelConfig, Profile], str | None]:
    """Return the check that a GPU has the format wherever a precision needs it."""

    def check(_model: ModelConfig, profile: Profile) -> str | None:
        gpu, precision = profile.device.gpu, profile.precision
        if gpu is None or name in gpu.formats:
            return None
        for field in ("weights", "embedding", "compute"):
            value = getattr(precision, field)
            if _FORMAT_OF.get(value) == name:
                return (
                    f"precision.{field} is {value!r}, but {gpu.name} (compute capability "
                    f"{gpu.compute_capability}) has {', '.join(gpu.formats)}; {name} needs "
                    f"{since} or later: use {instead}"
                )
        return None

    return check


def _compute(_model: ModelConfig, profile: Profile) -> str | None:
    compute = profile.precision.compute
    if profile.build.is_tensorrt and compute not in _COMPUTE:
        return (
            f"precision.compute is {compute!r}; target {profile.build.target} computes in "
            f"{' or '.join(_COMPUTE)}: set precision.compute"
        )
    return None


def _kv(_model: ModelConfig, profile: Profile) -> str | None:
    precision = profile.precision
    if not profile.build.is_tensorrt or profile.build.target == "trt-plugin":
        return None
    if precision.kv != precision.compute:
        return (
            f"precision.kv is {precision.kv!r} with precision.compute {precision.compute!r}; the "
            f"cache of target {profile.build.target} has the compute type: use kv "
            f"{precision.compute!r}, or build.target 'trt-plugin' for an int8 or fp8 cache"
        )
    return None


def _floats(_model: ModelConfig, profile: Profile) -> str | None:
    precision = profile.precision
    if not profile.build.is_tensorrt:
        return None
    for field in ("weights", "embedding"):
        value = getattr(precision, field)
        if value in FLOAT_PRECISIONS and value != precision.compute:
            return (
                f"precision.{field} is {value!r} with precision.compute {precision.compute!r}; a "
                f"float weight of target {profile.build.target} has the compute type: use "
                f"{precision.compute!r} for both"
            )
    return None


def _rows(_model: ModelConfig, profile: Profile) -> str | None:
    if profile.build.target == "ort":
        return None
    for field, instead in (("weights", "use 'int8_sq'"), ("batch_weights", "leave it out")):
        if getattr(profile.precision, field) == "int8_rows":
            return (
                f"precision.{field} is 'int8_rows' with build.target {profile.build.target!r}; "
                "inputs that are rounded token by token are computed by target ort only: "
                f"{instead}"
            )
    return None


def _plain_int8(_model: ModelConfig, profile: Profile) -> str | None:
    if profile.build.target != "trt-plain":
        return None
    for field, instead in (("weights", "'int8_sq' or 'int4_rtn'"), ("embedding", "a float")):
        if getattr(profile.precision, field) == "int8":
            return (
                f"precision.{field} is 'int8', codes with a scale a block; target trt-plain is for "
                f"TensorRT 10.3, which has blocks of INT4 only: use {instead}, or target trt-native"
            )
    return None


def _blocks(model: ModelConfig, profile: Profile) -> str | None:
    precision = profile.precision
    if not profile.build.is_tensorrt:
        return None
    if precision.weights in _BLOCKS:
        for name, width in linear_inputs(model):
            if width % precision.block_size:
                return (
                    f"precision.weights is {precision.weights!r} with block_size "
                    f"{precision.block_size}, but {name} {width} is no multiple of it, and "
                    f"TensorRT pads nothing; use {dividing_blocks(model)}weights "
                    f"{precision.compute!r}"
                )
    if precision.embedding in _BLOCKS and model.hidden_size % precision.block_size:
        sizes = [str(size) for size in BLOCK_SIZES if model.hidden_size % size == 0]
        smaller = f"block_size {' or '.join(sizes)}, or " if sizes else ""
        return (
            f"precision.embedding is {precision.embedding!r} with block_size "
            f"{precision.block_size}, but hidden_size {model.hidden_size} is no multiple of it, "
            f"and TensorRT pads nothing; use {smaller}embedding {precision.compute!r}"
        )
    return None


_MATRIX = "TensorRT support matrix, GPU architecture and precision"
_TYPED = "TensorRT 11 migration guide: every network is strongly typed"
PRECISION_RULES = (
    Rule(
        "fp8",
        f"{_MATRIX}; TensorRT for RTX 1.7.1 refuses FP8 below 8.9",
        _format("fp8", "8.9 (Ada)", "int8_sq, int4_awq or a float precision"),
    ),
    Rule(
        "int4",
        "TensorRT for RTX support matrix: no INT4 GEMM below 8.0; 1.7.1 refuses it for SM 7.5",
        _format("int4", "8.0 (Ampere)", "int8_sq or a float precision"),
    ),
    Rule("int8", _MATRIX, _format("int8", "7.5 (Turing)", "a float precision")),
    Rule("bf16", _MATRIX, _format("bf16", "8.0 (Ampere)", "fp16")),
    Rule("trt-compute", "this project's targets: no kernel of attention for float32", _compute),
    Rule(
        "trt-cache",
        "TensorRT operator KVCacheUpdate: float32, float16 and bfloat16 only",
        _kv,
    ),
    Rule("trt-floats", _TYPED, _floats),
    Rule(
        "rows-target",
        "TensorRT developer guide, explicit quantisation: the scale of an input is one number",
        _rows,
    ),
    Rule(
        "plain-int8",
        "TensorRT 10.3 developer guide, explicit quantisation: block quantisation is of INT4",
        _plain_int8,
    ),
    Rule(
        "trt-blocks",
        "TensorRT developer guide, explicit quantisation: the block size divides the axis",
        _blocks,
    ),
)
