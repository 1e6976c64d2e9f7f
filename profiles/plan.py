"""Does a model fit a profile: memory and limits, before any work."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import BLOCK_SIZES, FLOAT_PRECISIONS, Profile, ProfileError

GIB = 1024**3
ELEMENT_BYTES = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "int8_sq": 1.0,
    "int4_rtn": 0.5,
    "int4_awq": 0.5,
}
KV_ELEMENT_BYTES = {"fp32": 4, "fp16": 2, "fp8": 1, "int8": 1}
SCALE_BYTES = 4
# GroupQueryAttention of ONNX Runtime rotates heads of a multiple of 16 features only; every Llama 3
# has 64 or 128, smaller models are padded.
HEAD_MULTIPLE = {"ort": 16}
# Two model-sized hidden states, the widest linear's output and the float head row per token.
_ACTIVATION_COPIES = 3


@dataclass(frozen=True)
class Plan:
    """What one engine takes; all sizes in bytes, `capacity` in tokens a slot."""

    profile: str
    parameters: int
    weight_bytes: int
    kv_bytes_per_token: int
    slots: int
    capacity: int
    kv_bytes: int
    activation_bytes: int
    total_bytes: int
    memory_bytes: int

    @property
    def fits(self) -> bool:
        """Whether everything together stays within the profile's memory."""
        return self.total_bytes <= self.memory_bytes

    def as_dict(self) -> dict[str, Any]:
        """Return the plain form for `--json` and `engine.json`."""
        return {**asdict(self), "fits": self.fits}


def padded(features: int, block: int) -> int:
    """Round `features` up to whole blocks."""
    return -(-features // block) * block


def matrix_bytes(k: int, n: int, precision: str, block_size: int) -> int:
    """Return the stored bytes of a `[K, N]` weight.

    Quantised ones carry a scale a block; int8_sq one a column and fp8 one a matrix.
    """
    if precision in FLOAT_PRECISIONS:
        return int(k * n * ELEMENT_BYTES[precision])
    if precision in ("fp8", "int8_sq"):
        return k * n + (n if precision == "int8_sq" else 1) * SCALE_BYTES
    rows = padded(k, block_size)
    return int(rows * n * ELEMENT_BYTES[precision]) + rows // block_size * n * SCALE_BYTES


def weight_bytes(model: ModelConfig, profile: Profile) -> int:
    """Return the bytes of all weights as the profile stores them."""
    precision, block = profile.precision.weights, profile.precision.block_size
    hidden, middle = model.hidden_size, model.intermediate_size
    head_dim = padded(model.head_dim, HEAD_MULTIPLE[profile.build.target])
    query, kv = model.num_heads * head_dim, model.num_kv_heads * head_dim
    layer = (
        matrix_bytes(hidden, query + 2 * kv, precision, block)
        + matrix_bytes(query, hidden, precision, block)
        + 2 * matrix_bytes(hidden, middle, precision, block)
        + matrix_bytes(middle, hidden, precision, block)
    )
    table = matrix_bytes(hidden, model.vocab_size, profile.precision.embedding, block)
    norms = (2 * model.num_layers + 1) * hidden * 4
    return model.num_layers * layer + table * (1 if model.tie_word_embeddings else 2) + norms


# What attention of a target's runtime computes with.
_KV_PRECISIONS = {("ort", "cpu"): ("fp32", "int8")}


def require_support(model: ModelConfig, profile: Profile) -> None:
    """Raise ProfileError for a precision that the target or the model's shape cannot have."""
    target, provider = profile.build.target, profile.build.provider
    precision = profile.precision
    kv = _KV_PRECISIONS[target, provider]
    if precision.kv not in kv:
        raise ProfileError(
            f"profile {profile.name}: precision.kv is {precision.kv!r}; attention of target "
            f"{target} on a {provider} has caches of {' and '.join(kv)} only. `edgellama export "
            f"--kv-precision {precision.kv}` writes the portable model for other runtimes"
        )
    if precision.weights != "int4_awq":
        return
    for name, width in (
        ("hidden_size", model.hidden_size),
        ("the attention's width", model.query_size),
        ("intermediate_size", model.intermediate_size),
    ):
        if width % precision.block_size:
            raise ProfileError(
                f"profile {profile.name}: precision.weights is 'int4_awq' with block_size "
                f"{precision.block_size}, but {name} {width} is no multiple of it; use "
                f"{_dividing_blocks(model)}weights 'int4_rtn', which pads"
            )


def _dividing_blocks(model: ModelConfig) -> str:
    """Name the block sizes that divide every linear's inputs, as the start of advice."""
    widths = (model.hidden_size, model.query_size, model.intermediate_size)
    sizes = [str(size) for size in BLOCK_SIZES if not any(width % size for width in widths)]
    return f"block_size {' or '.join(sizes)}, or " if sizes else ""


def make_plan(model: ModelConfig, profile: Profile) -> Plan:
    """Compute the plan; a slot never holds more tokens than the model was made for."""
    limits = profile.limits
    capacity = min(limits.capacity, model.max_position_embeddings)
    per_token = model.kv_bytes_per_token(
        KV_ELEMENT_BYTES[profile.precision.kv], HEAD_MULTIPLE[profile.build.target]
    )
    weights = weight_bytes(model, profile)
    kv = per_token * capacity * limits.slots
    rows = max(limits.prefill_chunk, limits.slots)
    widest = max(2 * model.intermediate_size, model.query_size + 2 * model.kv_size)
    activations = rows * 4 * (_ACTIVATION_COPIES * widest) + limits.slots * model.vocab_size * 4
    return Plan(
        profile=profile.name,
        parameters=model.num_parameters,
        weight_bytes=weights,
        kv_bytes_per_token=per_token,
        slots=limits.slots,
        capacity=capacity,
        kv_bytes=kv,
        activation_bytes=activations,
        total_bytes=weights + kv + activations,
        memory_bytes=int(profile.device.memory_gib * GIB),
    )


def require_fit(model: ModelConfig, profile: Profile) -> Plan:
    """Return the plan, or raise ProfileError that says what would make it fit."""
    require_support(model, profile)
    plan = make_plan(model, profile)
    if plan.fits:
        return plan
    spare = plan.memory_bytes - plan.weight_bytes - plan.activation_bytes
    tokens = spare // plan.kv_bytes_per_token
    if tokens >= plan.slots:
        advice = f"lower limits.capacity to {tokens // plan.slots} or limits.slots"
    elif tokens > 1:
        advice = f"lower limits.slots x limits.capacity to {tokens} tokens in all"
    else:
        advice = "use a smaller weight precision, a smaller model or a device with more memory"
    raise ProfileError(
        f"profile {profile.name}: the engine needs {plan.total_bytes / GIB:.2f} GiB "
        f"(weights {plan.weight_bytes / GIB:.2f}, KV {plan.kv_bytes / GIB:.2f}, activations "
        f"{plan.activation_bytes / GIB:.2f}) but device.memory_gib is "
        f"{plan.memory_bytes / GIB:.2f}; {advice}"
    )
