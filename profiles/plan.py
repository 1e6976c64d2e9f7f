"""Does a model fit a profile: memory, limits and the bound of its speed, before any work."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from edgellama.profiles.ceiling import Ceiling, decode_ceiling
from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import FLOAT_PRECISIONS, Profile, ProfileError
from edgellama.profiles.rules import require_support

MIB = 1024**2
GIB = 1024**3
ELEMENT_BYTES = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "int8_sq": 1.0,
    "int8_rows": 1.0,
    "int4_rtn": 0.5,
    "int4_awq": 0.5,
}
KV_ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}
FLOAT_BYTES = 4
# GroupQueryAttention of ONNX Runtime rotates heads of a multiple of 16 features only; every Llama 3
# has 64 or 128, smaller models are padded. TensorRT pads inside its kernels.
HEAD_MULTIPLE = {"ort": 16, "trt-native": 1, "trt-plugin": 1, "trt-plain": 1}
# Two model-sized hidden states, the widest linear's output and the float head row per token.
_ACTIVATION_COPIES = 3


@dataclass(frozen=True)
class Plan:
    """What one engine takes; all sizes in bytes, `capacity` in tokens a slot.

    `weight_bytes` are the sum of linears, tables and norms, and `batch_bytes` the linears of the
    second form with a head of their own, where there is one; `activation_bytes` that of hidden
    states, scores and logits. `store_bytes` are those of the prefix store on a CPU; that of a GPU's
    engine lies in another memory. `ceiling` is None where the memory's bandwidth is not known.
    """

    profile: str
    parameters: int
    weight_bytes: int
    linear_bytes: int
    table_bytes: int
    norm_bytes: int
    batch_bytes: int
    kv_bytes_per_token: int
    slots: int
    capacity: int
    kv_bytes: int
    store_bytes: int
    activation_bytes: int
    hidden_bytes: int
    score_bytes: int
    logit_bytes: int
    total_bytes: int
    memory_bytes: int
    ceiling: Ceiling | None

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


def matrix_bytes(
    k: int, n: int, precision: str, block_size: int, scale_bytes: int = FLOAT_BYTES
) -> int:
    """Return the stored bytes of a `[K, N]` weight.

    Quantised ones carry a scale a block; int8_sq and int8_rows one a column, fp8 one a matrix.
    """
    if precision in FLOAT_PRECISIONS:
        return int(k * n * ELEMENT_BYTES[precision])
    if precision in ("fp8", "int8_sq", "int8_rows"):
        return k * n + (1 if precision == "fp8" else n) * scale_bytes
    rows = padded(k, block_size)
    return int(rows * n * ELEMENT_BYTES[precision]) + rows // block_size * n * scale_bytes


def _compute_bytes(profile: Profile) -> int:
    """Return the size of a number between the operators, and of a scale of a weight."""
    return int(ELEMENT_BYTES[profile.precision.compute])


def linear_bytes(model: ModelConfig, profile: Profile, weights: str) -> int:
    """Return the bytes of the linears of all layers in the precision `weights`."""
    hidden, middle = model.hidden_size, model.intermediate_size
    head_dim = padded(model.head_dim, HEAD_MULTIPLE[profile.build.target])
    query, kv = model.num_heads * head_dim, model.num_kv_heads * head_dim

    def matrix(k: int, n: int) -> int:
        block_size = profile.precision.block_size
        return matrix_bytes(k, n, weights, block_size, _compute_bytes(profile))

    layer = (
        matrix(hidden, query + 2 * kv)
        + matrix(query, hidden)
        + 2 * matrix(hidden, middle)
        + matrix(middle, hidden)
    )
    return model.num_layers * layer


def table_bytes(model: ModelConfig, profile: Profile) -> int:
    """Return the bytes of one table `[hidden, vocab]`: the embedding or the head."""
    return matrix_bytes(
        model.hidden_size,
        model.vocab_size,
        profile.precision.embedding,
        profile.precision.block_size,
        _compute_bytes(profile),
    )


def score_bytes(model: ModelConfig, profile: Profile, capacity: int) -> int:
    """Return what attention keeps between its operators, at its largest.

    A fused one has only the mask `[B, 1, S, capacity]`. Target trt-plain has the scores
    `[B, heads, S, capacity]` too, in float32 before and after the softmax; its cache is written in
    place and takes nothing more. Target trt-plugin has what the pieces of a past make of the
    values, and a logarithm each, in float32: one piece of a chunk, more only of fewer rows. Target
    ort masks by lengths.
    """
    limits, target = profile.limits, profile.build.target
    if target == "ort":
        return 0
    rows = max(limits.prefill_chunk, limits.slots)  # of one prompt, or one of each slot
    if target == "trt-plugin":
        return rows * (model.query_size + model.num_heads) * FLOAT_BYTES
    scores = 2 * FLOAT_BYTES * model.num_heads if target == "trt-plain" else 0
    return rows * capacity * (1 + scores)


def make_plan(model: ModelConfig, profile: Profile) -> Plan:
    """Compute the plan; a slot never holds more tokens than the model was made for."""
    limits, gpu = profile.limits, profile.device.gpu
    capacity = min(limits.capacity, model.max_position_embeddings)
    per_token = model.kv_bytes_per_token(
        KV_ELEMENT_BYTES[profile.precision.kv], HEAD_MULTIPLE[profile.build.target]
    )
    number = _compute_bytes(profile)
    precision = profile.precision
    linears, table = linear_bytes(model, profile, precision.weights), table_bytes(model, profile)
    batch = 0
    if precision.batch_weights is not None:
        batch = linear_bytes(model, profile, precision.batch_weights) + table
    tables = table * (1 if model.tie_word_embeddings else 2)
    norms = (2 * model.num_layers + 1) * model.hidden_size * number
    weights = linears + tables + norms
    kv = per_token * capacity * limits.slots
    rows = max(limits.prefill_chunk, limits.slots)
    widest = max(2 * model.intermediate_size, model.query_size + 2 * model.kv_size)
    hidden = rows * number * (_ACTIVATION_COPIES * widest)
    logits = limits.slots * model.vocab_size * FLOAT_BYTES
    scores = score_bytes(model, profile, capacity)
    activations = hidden + scores + logits
    store = limits.prefix_store_mib * MIB if profile.device.kind == "cpu" else 0
    ceiling = None
    if gpu is not None:
        # The embedding is gathered row by row; the head, its twin or not, is read whole.
        read = linears + table + norms
        ceiling = decode_ceiling(read, per_token, limits.slots, capacity, gpu.bandwidth_gb_s)
    return Plan(
        profile=profile.name,
        parameters=model.num_parameters,
        weight_bytes=weights,
        linear_bytes=linears,
        table_bytes=tables,
        norm_bytes=norms,
        batch_bytes=batch,
        kv_bytes_per_token=per_token,
        slots=limits.slots,
        capacity=capacity,
        kv_bytes=kv,
        store_bytes=store,
        activation_bytes=activations,
        hidden_bytes=hidden,
        score_bytes=scores,
        logit_bytes=logits,
        total_bytes=weights + batch + kv + store + activations,
        memory_bytes=int(profile.device.memory_gib * GIB),
        ceiling=ceiling,
    )


def _no_precision_fits(model: ModelConfig, profile: Profile) -> bool:
    """Whether the weights alone are too many in the smallest precision."""
    smallest = replace(profile.precision, weights="int4_rtn", embedding="int4_rtn")
    plan = make_plan(model, replace(profile, precision=smallest))
    return plan.weight_bytes > plan.memory_bytes


def require_fit(model: ModelConfig, profile: Profile) -> Plan:
    """Return the plan, or raise ProfileError that says what would make it fit."""
    require_support(model, profile)
    plan = make_plan(model, profile)
    if plan.fits:
        return plan
    held = plan.weight_bytes + plan.batch_bytes + plan.activation_bytes
    spare = plan.memory_bytes - held
    tokens = spare // plan.kv_bytes_per_token
    if plan.store_bytes and plan.kv_bytes <= spare:
        advice = f"lower limits.prefix_store_mib to {(spare - plan.kv_bytes) // MIB}"
    elif tokens >= plan.slots:
        advice = f"lower limits.capacity to {tokens // plan.slots} or limits.slots"
    elif tokens > 1:
        advice = f"lower limits.slots x limits.capacity to {tokens} tokens in all"
    elif _no_precision_fits(model, profile):
        advice = "not even INT4 weights fit: use a smaller model or a device with more memory"
    else:
        advice = "use a smaller weight precision, a smaller model or a device with more memory"
    gpu = profile.device.gpu
    store = f", prefix store {plan.store_bytes / GIB:.2f}" if plan.store_bytes else ""
    source = "device.memory_gib of the profile"
    if gpu is not None:
        source += f", of {gpu.memory_gib:g} GiB in all ({gpu.sources['memory_gib']})"
    raise ProfileError(
        f"profile {profile.name}: the engine needs {plan.total_bytes / GIB:.2f} GiB "
        f"(weights {(plan.weight_bytes + plan.batch_bytes) / GIB:.2f}, "
        f"KV {plan.kv_bytes / GIB:.2f}, activations {plan.activation_bytes / GIB:.2f}{store}) but "
        f"device.memory_gib is "
        f"{plan.memory_bytes / GIB:.2f}; {advice} [rule memory; source: {source}]"
    )
