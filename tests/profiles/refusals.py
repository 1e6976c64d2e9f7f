"""Wishes that no build can fulfil, as data: what is asked for, and what the refusal must say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llamas import LLAMA_1B, LLAMA_70B, MODELS

from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import Profile, load_gpu, load_profile


@dataclass(frozen=True)
class Refusal:
    """A shipped profile with some values of its tables replaced, and perhaps another model.

    `rule` refuses it, and `words` are all in the error, besides the source of the rule.
    """

    name: str
    profile: str
    rule: str
    words: tuple[str, ...]
    changes: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)  # None: no table
    model: ModelConfig | None = None
    model_changes: Mapping[str, Any] = field(default_factory=dict)

    def wish(self) -> tuple[ModelConfig, Profile]:
        """Return what is asked for: valid records, each by itself."""
        profile = load_profile(self.profile)
        model = self.model or MODELS[profile.model]
        tables: dict[str, Any] = {
            table: None if values is None else replace(getattr(profile, table), **values)
            for table, values in self.changes.items()
        }
        return replace(model, **self.model_changes), replace(profile, **tables)


Changes = dict[str, Mapping[str, Any] | None]


def _precision(**values: Any) -> Changes:
    return {"precision": values}


def _knobs(**values: Any) -> Changes:
    return {"tensorrt": values}


def _rtx(**values: Any) -> Changes:
    return {"build": {"backend": "tensorrt-rtx"}, **_knobs(**values)}


_BF16 = {"weights": "bf16", "embedding": "bf16", "kv": "bf16", "compute": "bf16"}
_FP32 = {"weights": "fp32", "embedding": "fp32", "kv": "fp32", "compute": "fp32"}

# A profile of target trt-plugin for another GPU.
_PLUGIN_ON_T4: Changes = {
    "device": {"gpu": load_gpu("t4"), "memory_gib": 13.5},
    **_precision(weights="fp16", kv="fp16"),
}

REFUSALS = (
    Refusal(
        "FP8 on an Orin",
        "agx-orin-8b",
        "fp8",
        ("precision.weights is 'fp8'", "AGX Orin", "8.7", "8.9 (Ada)", "use int8_sq, int4_awq"),
        _precision(weights="fp8"),
    ),
    Refusal(
        "FP8 on an A100",
        "a100-8b",
        "fp8",
        ("precision.weights is 'fp8'", "8.0", "support matrix"),
        _precision(weights="fp8"),
    ),
    Refusal(
        "INT4 on a T4",
        "t4-3b",
        "int4",
        ("precision.weights is 'int4_awq'", "NVIDIA T4", "7.5", "8.0 (Ampere)", "use int8_sq"),
        _precision(weights="int4_awq"),
    ),
    Refusal(
        "an INT4 table on a T4",
        "t4-3b",
        "int4",
        ("precision.embedding is 'int4_rtn'", "7.5"),
        _precision(embedding="int4_rtn"),
    ),
    Refusal(
        "bfloat16 on a T4",
        "t4-3b",
        "bf16",
        ("precision.weights is 'bf16'", "7.5", "8.0 (Ampere)", "use fp16"),
        _precision(**_BF16),
    ),
    Refusal(
        "INT8 on a GPU without it",
        "t4-3b",
        "int8",
        ("precision.weights is 'int8_sq'", "has fp16;", "use a float precision"),
        {
            "device": {"gpu": replace(load_gpu("t4"), formats=("fp16",))},
            **_precision(weights="int8_sq"),
        },
    ),
    Refusal(
        "70B on an L4",
        "l4-8b",
        "memory",
        (
            "needs 56.96 GiB",
            "device.memory_gib is 21.00",
            "not even INT4 weights fit",
            "24 GB GDDR6",
        ),
        model=LLAMA_70B,
    ),
    Refusal(
        "8B in floats on an Orin NX",
        "orin-nx-3b",
        "memory",
        ("device.memory_gib is 11.00", "use a smaller weight precision", "16 GB 128-bit LPDDR5"),
        _precision(weights="fp16"),
        model=MODELS["meta-llama/Llama-3.1-8B-Instruct"],
    ),
    Refusal(
        "TensorRT 11.4.0 on a Jetson",
        "agx-orin-8b",
        "gpu-versions",
        (
            "tensorrt.versions is '==11.4.0'",
            "'==10.3' or '==10.16' or '>=11.4.1,<12'",
            "11.0 to 11.4.0 do not support JetPack",
        ),
        _knobs(versions="==11.4.0"),
    ),
    Refusal(
        "a range over the gap on a Jetson",
        "thor-8b-fp8",
        "gpu-versions",
        ("tensorrt.versions is '>=10.16,<12'", "Jetson Thor"),
        _knobs(versions=">=10.16,<12"),
    ),
    Refusal(
        "TensorRT 11.4.1 on an Orin Nano",
        "orin-nano-1b",
        "gpu-versions",
        ("tensorrt.versions is '>=11.4.1,<12'", "Jetson AGX Orin and Jetson Thor only"),
        _knobs(versions=">=11.4.1,<12"),
    ),
    Refusal(
        "TensorRT 10.7 on Blackwell",
        "rtx5090-8b",
        "gpu-versions",
        ("tensorrt.versions is '==10.7'", "'>=10.8,<12'", "10.8.0 release notes"),
        _knobs(versions="==10.7"),
    ),
    Refusal(
        "native layers on TensorRT 10.3",
        "agx-orin-8b",
        "target-versions",
        ("tensorrt.versions is '==10.3'", "trt-native needs >=10.16", "'trt-plain'"),
        _knobs(versions="==10.3"),
    ),
    Refusal(
        "tiling on TensorRT 10.3",
        "orin-nx-3b",
        "tiling",
        ("tensorrt.tiling is 'fast'", "'==10.3'", ">=10.8"),
        _knobs(tiling="fast"),
    ),
    Refusal(
        "a float32 engine",
        "l4-1b",
        "trt-compute",
        ("precision.compute is 'fp32'", "fp16 or bf16"),
        _precision(**_FP32),
    ),
    Refusal(
        "an FP8 cache",
        "l4-8b-fp8",
        "trt-cache",
        ("precision.kv is 'fp8'", "use kv 'fp16', or build.target 'trt-plugin'", "KVCacheUpdate"),
        _precision(kv="fp8"),
    ),
    Refusal(
        "an INT8 cache",
        "orin-nano-1b",
        "trt-cache",
        ("precision.kv is 'int8'", "target trt-plain", "use kv 'fp16'"),
        _precision(kv="int8"),
    ),
    Refusal(
        "float weights of another type",
        "a100-8b",
        "trt-floats",
        ("precision.weights is 'bf16'", "precision.compute 'fp16'", "strongly typed"),
        _precision(weights="bf16"),
    ),
    Refusal(
        "tables of another type",
        "h100-8b-fp8",
        "trt-floats",
        ("precision.embedding is 'fp16'", "precision.compute 'bf16'"),
        _precision(embedding="fp16"),
    ),
    Refusal(
        "inputs rounded by the token on a GPU",
        "l4-1b",
        "rows-target",
        ("precision.weights is 'int8_rows'", "target ort only", "use 'int8_sq'"),
        _precision(weights="int8_rows"),
    ),
    Refusal(
        "greedy requests on the first of two forms of the weights, on a GPU",
        "l4-1b",
        "rows-target",
        ("precision.batch_weights is 'int8_rows'", "target ort only", "leave it out"),
        _precision(batch_weights="int8_rows", greedy_form="first"),
    ),
    Refusal(
        "blocks of INT8 on TensorRT 10.3",
        "orin-nx-3b",
        "plain-int8",
        ("precision.weights is 'int8'", "blocks of INT4 only", "'int8_sq' or 'int4_rtn'", "10.3"),
        _precision(weights="int8"),
    ),
    Refusal(
        "an INT8 table on TensorRT 10.3",
        "orin-nx-3b",
        "plain-int8",
        ("precision.embedding is 'int8'", "use a float"),
        _precision(embedding="int8"),
    ),
    Refusal(
        "blocks that do not divide a linear",
        "l4-1b",
        "trt-blocks",
        ("block_size 128", "intermediate_size 8256", "pads nothing", "use block_size 32 or 64"),
        model_changes={"intermediate_size": 8256},
    ),
    Refusal(
        "blocks that divide no linear",
        "l4-1b",
        "trt-blocks",
        ("intermediate_size 172", "use weights 'fp16'"),
        model_changes={"intermediate_size": 172},
    ),
    Refusal(
        "blocks that do not divide a table",
        "l4-1b",
        "trt-blocks",
        ("precision.embedding is 'int4_rtn'", "hidden_size 2080", "use block_size 32, or"),
        _precision(weights="fp16", embedding="int4_rtn"),
        model_changes={"hidden_size": 2080},
    ),
    Refusal(
        "heads of 8 for native attention",
        "l4-1b",
        "head-size",
        ("head_dim is 8", "16 to 256 in steps of 8", "use build.target 'trt-plain'"),
        _precision(weights="fp16"),
        model_changes={"head_dim": 8},
    ),
    Refusal(
        "heads of 20 for native attention",
        "l4-1b",
        "head-size",
        ("head_dim is 20",),
        _precision(weights="fp16"),
        model_changes={"head_dim": 20},
    ),
    Refusal(
        "TensorRT for RTX on an Orin",
        "agx-orin-8b",
        "rtx-gpu",
        ("build.backend is 'tensorrt-rtx'", "no SM87", "use backend 'tensorrt', on the device"),
        _rtx(),
    ),
    Refusal(
        "TensorRT for RTX on an H200",
        "h200-70b-fp8",
        "rtx-gpu",
        ("build.backend is 'tensorrt-rtx'", "no SM90"),
        _rtx(),
    ),
    Refusal(
        "a stripped plan on TensorRT for RTX",
        "l4-1b",
        "rtx-knobs",
        ("tensorrt.strip_plan is True", "no GPU", "measured"),
        _rtx(strip_plan=True, refit="refit_individual"),
    ),
    Refusal(
        "a refittable plan on TensorRT for RTX",
        "l4-1b",
        "rtx-knobs",
        ("tensorrt.refit is 'refit_identical'", "make it 'none'"),
        _rtx(refit="refit_identical"),
    ),
    Refusal(
        "other GPUs on TensorRT for RTX",
        "l4-1b",
        "rtx-knobs",
        ("tensorrt.hardware_compatibility is 'ampere_plus'", "would be ignored"),
        _rtx(hardware_compatibility="ampere_plus"),
    ),
    Refusal(
        "a lean runtime on TensorRT for RTX",
        "l4-1b",
        "rtx-knobs",
        ("tensorrt.exclude_lean_runtime is False", "make it true"),
        _rtx(version_compatible=True),
    ),
    Refusal(
        "weight streaming on shared memory",
        "agx-orin-8b",
        "streaming",
        ("tensorrt.weight_streaming is true", "nothing to stream from"),
        _knobs(weight_streaming=True),
    ),
    Refusal(
        "an engine for other Jetsons",
        "agx-orin-8b",
        "jetpack-engines",
        ("tensorrt.hardware_compatibility is 'same_compute_capability'", "JetPack"),
        _knobs(hardware_compatibility="same_compute_capability"),
    ),
    Refusal(
        "float16 computation on a CPU",
        "cpu-1b",
        "ort-compute",
        ("precision.compute is 'fp16'", "computes in fp32"),
        _precision(compute="fp16"),
    ),
    Refusal(
        "an FP8 cache on a CPU",
        "cpu-1b",
        "ort-cache",
        ("precision.kv is 'fp8'", "caches of fp32 and int8 only", "GroupQueryAttention"),
        _precision(kv="fp8"),
    ),
    Refusal(
        "AWQ blocks that do not divide, on a CPU",
        "cpu-1b",
        "awq-blocks",
        ("precision.weights is 'int4_awq'", "intermediate_size 8256", "'int4_rtn', which pads"),
        _precision(weights="int4_awq"),
        model_changes={"intermediate_size": 8256},
    ),
    Refusal(
        "ONNX Runtime on a GPU",
        "l4-1b",
        "ort-device",
        ("build.target is 'ort'", "device.kind is 'gpu'", "use a target trt-*"),
        {
            "build": {"target": "ort", "backend": "onnxruntime"},
            "precision": _FP32,
            "tensorrt": None,
        },
    ),
    Refusal(
        "a plugin on TensorRT for RTX",
        "l4-8b-kv8",
        "plugin-backend",
        ("build.backend is 'tensorrt-rtx'", "use backend 'tensorrt', or target 'trt-native'"),
        {"build": {"backend": "tensorrt-rtx"}},
    ),
    Refusal(
        "a plugin on a T4",
        "l4-8b-kv8",
        "kernel-gpu",
        ("NVIDIA T4 has compute capability 7.5", "8.0, 8.6, 8.7, 8.9", "use build.target"),
        _PLUGIN_ON_T4,
        model=LLAMA_1B,
    ),
    Refusal(
        "a plugin on TensorRT 10.3",
        "agx-orin-8b-kv8",
        "target-versions",
        ("tensorrt.versions is '==10.3'", "trt-plugin needs >=10.16"),
        _knobs(versions="==10.3"),
    ),
    Refusal(
        "a plugin for other GPUs",
        "l4-8b-kv8",
        "kernel-hardware",
        ("hardware_compatibility is 'ampere_plus'", "one compute capability", "use 'none'"),
        _knobs(hardware_compatibility="ampere_plus"),
    ),
    Refusal(
        "a plugin for heads of 96",
        "l4-8b-kv8",
        "kernel-heads",
        ("head_dim is 96", "16, 32, 64, 128"),
        model_changes={"head_dim": 96},
    ),
    Refusal(
        "a plugin for groups of 16",
        "l4-8b-kv8",
        "kernel-heads",
        ("num_attention_heads / num_key_value_heads is 16", "up to 8"),
        model_changes={"num_heads": 32, "num_kv_heads": 2},
    ),
    Refusal(
        "an FP8 cache on an Orin",
        "agx-orin-8b-kv8",
        "kernel-cache",
        ("precision.kv is 'fp8'", "AGX Orin", "8.7", "needs 8.9 or later: use kv 'int8'"),
        _precision(kv="fp8"),
    ),
    Refusal(
        "a plugin's cache of another float",
        "l4-8b-kv8",
        "kernel-cache",
        ("precision.kv is 'bf16'", "'fp8', 'int8' or 'fp16'"),
        _precision(kv="bf16"),
    ),
    Refusal(
        "PTX that is older than the GPU",
        "l4-8b-kv8",
        "kernel-ptx",
        ("kernels.ptx_version is '7.5'", "8.9", "need 8.1 or later", "code 'cubin'"),
        {"kernels": {"ptx_version": "7.5"}},
    ),
    Refusal(
        "an INT4 kernel for FP8 weights",
        "l4-8b-kv8",
        "kernel-linear",
        ("kernels.int4_linear is true", "weights 'fp8'", "INT4 in blocks of 128"),
        {"kernels": {"int4_linear": True}},
    ),
)
