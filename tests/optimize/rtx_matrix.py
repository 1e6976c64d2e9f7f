"""What TensorRT for RTX is asked: shipped profiles, precisions and targets, on a small model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from llamas import MODELS

from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import (
    FLOAT_PRECISIONS,
    Precision,
    Profile,
    load_gpu,
    load_profile,
    profile_names,
)
from edgellama.profiles.rules import RULES

TARGETS = ("trt-native", "trt-plain")
# Weights, and what the tables are where that is no float.
COLUMNS = (
    ("fp16", None),
    ("bf16", None),
    ("int8", None),
    ("int8_sq", None),
    ("int4_rtn", None),
    ("int4_rtn", "int4_rtn"),
    ("int4_awq", None),
    ("fp8", None),
)
# Profiles whose GPU TensorRT for RTX does not build for, and the GPU next to it that it does.
STAND_INS = {
    "agx-orin-8b": "a10g",
    "h100-8b-fp8": "l4",
    "h200-70b-fp8": "l4",
    "orin-nano-1b": "a10g",
    "orin-nx-3b": "a10g",
    "thor-8b-fp8": "rtx5090",
}
# Sizes that make a plan in half a second; heads and their grouping are the model's own.
LAYERS, KV_HEADS, HIDDEN, INTERMEDIATE, VOCAB = 2, 2, 384, 512, 2048
LIMITS = {"slots": 4, "capacity": 256, "prefill_chunk": 64}


def rtx_profiles() -> list[str]:
    """Return the shipped profiles that TensorRT for RTX builds for."""
    profiles = {name: load_profile(name) for name in profile_names()}
    return [
        name
        for name, profile in profiles.items()
        if profile.device.gpu is not None
        and profile.device.gpu.rtx
        and profile.build.target in TARGETS
    ]


def small_model(profile: Profile) -> ModelConfig:
    """Return the profile's model with its heads and few of everything else."""
    model = MODELS[profile.model]
    return replace(
        model,
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_layers=LAYERS,
        num_heads=KV_HEADS * model.num_heads // model.num_kv_heads,
        num_kv_heads=KV_HEADS,
        max_position_embeddings=LIMITS["capacity"],
    )


@dataclass(frozen=True)
class Cell:
    """One plan: a shipped profile with another precision and target, and a GPU for RTX."""

    profile: str
    target: str
    weights: str
    embedding: str | None = None  # a float of the compute type
    gpu: str | None = None  # the profile's own

    @property
    def column(self) -> str:
        """Return the heading of its column."""
        return self.weights if self.embedding is None else f"{self.weights}, tables too"

    def wish(self) -> tuple[ModelConfig, Profile]:
        """Return the small model and the profile that a build is asked for."""
        base = load_profile(self.profile)
        own = base.precision
        compute = self.weights if self.weights in FLOAT_PRECISIONS else own.compute
        precision = Precision(
            self.weights, self.embedding or compute, compute, own.block_size, compute
        )
        device = base.device
        if self.gpu is not None:
            gpu = load_gpu(self.gpu)
            device = replace(device, gpu=gpu, memory_gib=min(device.memory_gib, gpu.memory_gib))
        profile = replace(
            base,
            device=device,
            build=replace(base.build, target=self.target, backend="tensorrt-rtx"),
            precision=precision,
            limits=replace(base.limits, **LIMITS),
        )
        return small_model(base), profile

    def rule(self) -> str | None:
        """Return the name of the rule that refuses it, or None."""
        model, profile = self.wish()
        return next((rule.name for rule in RULES if rule.check(model, profile)), None)


def cells() -> Iterator[Cell]:
    """Yield every profile of an RTX GPU with every precision and target."""
    for name in rtx_profiles():
        for weights, embedding in COLUMNS:
            for target in TARGETS:
                yield Cell(name, target, weights, embedding)


def stand_ins() -> Iterator[Cell]:
    """Yield the profiles of other GPUs as they are shipped, for the GPU next to theirs."""
    for name, gpu in STAND_INS.items():
        own = load_profile(name)
        yield Cell(name, own.build.target, own.precision.weights, gpu=gpu)
