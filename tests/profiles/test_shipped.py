"""Every shipped profile and GPU is complete, agrees with itself and asks for what is possible."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from llamas import MODELS

from edgellama.profiles.gpu import Gpu
from edgellama.profiles.plan import require_fit
from edgellama.profiles.profile import (
    CALIBRATED_WEIGHTS,
    ProfileError,
    gpu_names,
    load_gpu,
    load_profile,
    profile_from_dict,
    profile_names,
)

PROFILES = (
    "t4-3b",
    "a10g-8b",
    "rtx4090-8b",
    "rtx5090-8b",
    "l4-1b",
    "l4-3b",
    "l4-8b",
    "l4-8b-fp8",
    "l4-8b-kv8",
    "l40s-8b-fp8",
    "a100-8b",
    "h100-8b-fp8",
    "h200-70b-fp8",
    "orin-nano-1b",
    "orin-nx-3b",
    "agx-orin-8b",
    "agx-orin-8b-kv8",
    "thor-8b-fp8",
    "spark-8b-fp8",
)
JETPACK_6 = ("orin-nano-1b", "orin-nx-3b")
# What TensorRT's matrix says of each compute capability.
FORMATS = {
    "7.5": {"fp16", "int8"},
    "8.0": {"fp16", "bf16", "int8", "int4"},
    "8.6": {"fp16", "bf16", "int8", "int4"},
    "8.7": {"fp16", "bf16", "int8", "int4"},
    "8.9": {"fp16", "bf16", "int8", "int4", "fp8"},
    "9.0": {"fp16", "bf16", "int8", "int4", "fp8"},
    "11.0": {"fp16", "bf16", "int8", "int4", "fp8", "fp4"},
    "12.0": {"fp16", "bf16", "int8", "int4", "fp8", "fp4"},
    "12.1": {"fp16", "bf16", "int8", "int4", "fp8", "fp4"},
}
RTX_CAPABILITIES = {"7.5", "8.0", "8.6", "8.9", "12.0", "12.1"}


def names_of_gpu_profiles() -> Iterator[str]:
    return (name for name in profile_names() if load_profile(name).device.kind == "gpu")


def test_all_are_shipped() -> None:
    assert set(names_of_gpu_profiles()) == set(PROFILES)


def test_every_gpu_is_used() -> None:
    used = [load_profile(name).device.gpu for name in PROFILES]
    assert all(load_gpu(name) in used for name in gpu_names())


@pytest.mark.parametrize("name", gpu_names())
def test_a_gpu_agrees_with_its_compute_capability(name: str) -> None:
    gpu = load_gpu(name)
    assert set(gpu.formats) == FORMATS[gpu.compute_capability]
    assert gpu.rtx == (gpu.compute_capability in RTX_CAPABILITIES)
    assert gpu.unified_memory == (gpu.platform != "x86_64")


@pytest.mark.parametrize("name", gpu_names())
def test_every_figure_has_a_source(name: str) -> None:
    gpu = load_gpu(name)
    fields = set(Gpu.__dataclass_fields__) - {"sources"}
    assert set(gpu.sources) == fields
    assert all(text.strip() for text in gpu.sources.values())
    assert gpu.compute_capability in gpu.sources["compute_capability"]
    assert any(unit in gpu.sources["bandwidth_gb_s"] for unit in ("GB/s", "TB/s"))


def test_a_gpu_without_a_source_or_with_a_wrong_format_is_refused() -> None:
    raw = load_profile("l4-8b").as_dict()
    raw["device"]["gpu"]["sources"] = {**raw["device"]["gpu"]["sources"], "memory_gib": ""}
    with pytest.raises(ProfileError, match=r"gpu\.sources has nothing for memory_gib"):
        profile_from_dict(raw)
    raw = load_profile("agx-orin-8b").as_dict()
    raw["device"]["gpu"]["formats"] = ("fp16", "fp8")
    with pytest.raises(ProfileError, match=r"'fp8' for compute capability 8\.7; .* from 8\.9 on"):
        profile_from_dict(raw)


@pytest.mark.parametrize("name", PROFILES)
def test_it_fits_its_own_model(name: str) -> None:
    profile = load_profile(name)
    plan = require_fit(MODELS[profile.model], profile)
    assert plan.capacity == profile.limits.capacity
    gpu = profile.device.gpu
    assert gpu is not None
    assert profile.device.memory_gib <= 0.95 * gpu.memory_gib, "the driver needs some"
    if gpu.unified_memory:
        assert profile.device.memory_gib <= 0.8 * gpu.memory_gib, "the CPU needs some"


@pytest.mark.parametrize("name", PROFILES)
def test_its_service_level_is_possible(name: str) -> None:
    """At full load, with every slot full; a real kernel is slower than the memory, so a quarter is
    kept."""
    profile = load_profile(name)
    plan = require_fit(MODELS[profile.model], profile)
    assert profile.slo is not None and profile.slo.source
    assert plan.ceiling is not None
    assert plan.ceiling.full.ms * 1.25 <= profile.slo.itl_ms


@pytest.mark.parametrize("name", PROFILES)
def test_its_name_says_its_precision(name: str) -> None:
    profile = load_profile(name)
    precision = profile.precision
    narrow = name.endswith("-kv8")
    assert narrow or name.endswith("-fp8") == (precision.weights == "fp8")
    assert precision.embedding == precision.compute
    assert narrow == (precision.kv in ("fp8", "int8")) == (precision.kv != precision.compute)
    if "-8b" in name or "-70b" in name:
        assert precision.weights in CALIBRATED_WEIGHTS
    other = "trt-plugin" if narrow else "trt-native"
    assert profile.build.target == ("trt-plain" if name in JETPACK_6 else other)


@pytest.mark.parametrize("name", profile_names())
def test_it_survives_json(name: str) -> None:
    profile = load_profile(name)
    raw: dict[str, Any] = json.loads(json.dumps(profile.as_dict()))
    assert profile_from_dict(raw) == profile
