"""The plan against figures worked out by hand, and the advice when a model does not fit."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from edgellama.profiles.model import (
    ModelConfig,
    UnsupportedModelError,
    model_config_from_dict,
    read_model_config,
)
from edgellama.profiles.plan import make_plan, matrix_bytes, require_fit
from edgellama.profiles.profile import Profile, ProfileError, load_profile

STORIES = ModelConfig(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=172,
    num_layers=5,
    num_heads=8,
    num_kv_heads=4,
    head_dim=8,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    rope_scaling=None,
    tie_word_embeddings=True,
)
LLAMA_1B = replace(
    STORIES,
    vocab_size=128256,
    hidden_size=2048,
    intermediate_size=8192,
    num_layers=16,
    num_heads=32,
    num_kv_heads=8,
    head_dim=64,
    max_position_embeddings=131072,
)
LLAMA_8B = replace(
    LLAMA_1B,
    hidden_size=4096,
    intermediate_size=14336,
    num_layers=32,
    head_dim=128,
    tie_word_embeddings=False,
)


def tiny_profile(memory_gib: float = 1.0, slots: int = 16, capacity: int = 512) -> Profile:
    """cpu-tiny: int4 weights and int8 tables in blocks of 32, fp32 KV, chunks of 64."""
    profile = load_profile("cpu-tiny")
    assert (profile.precision.weights, profile.precision.embedding) == ("int4_rtn", "int8")
    assert (profile.precision.block_size, profile.limits.prefill_chunk) == (32, 64)
    return replace(
        profile,
        device=replace(profile.device, memory_gib=memory_gib),
        limits=replace(profile.limits, slots=slots, capacity=capacity),
    )


@pytest.mark.parametrize(
    ("model", "parameters"),
    [(STORIES, 260_032), (LLAMA_1B, 1_235_814_400), (LLAMA_8B, 8_030_261_248)],
    ids=["stories260k", "llama-3.2-1b", "llama-3-8b"],
)
def test_the_parameter_counts_are_the_published_ones(model: ModelConfig, parameters: int) -> None:
    assert model.num_parameters == parameters


def test_kv_bytes_per_token() -> None:
    assert STORIES.kv_bytes_per_token(4, head_multiple=16) == 2560
    assert LLAMA_8B.kv_bytes_per_token(2) == 128 * 1024  # fp16: 2 x 32 layers x 8 x 128 x 2 B
    assert STORIES.kv_bytes_per_token(4) == 1280


@pytest.mark.parametrize(
    ("precision", "size"),
    [
        ("fp32", 172 * 64 * 4),
        ("fp16", 172 * 64 * 2),
        ("int8", 192 * 64 + 6 * 64 * 4),  # 172 rows become 6 blocks of 32
        ("int4_rtn", 192 * 64 // 2 + 6 * 64 * 4),
        ("bf16", 172 * 64 * 2),
        ("fp8", 172 * 64 + 4),
        ("int8_sq", 172 * 64 + 64 * 4),
        ("int8_rows", 172 * 64 + 64 * 4),
    ],
)
def test_a_matrix_takes_values_and_scales(precision: str, size: int) -> None:
    assert matrix_bytes(172, 64, precision, 32) == size


def test_the_plan_by_hand() -> None:
    plan = make_plan(STORIES, tiny_profile())
    # Per layer, heads of 8 stored as 16: qkv [64,256], out [128,64], gate and up [64,172],
    # down [172,64] in 6 blocks of 32.
    layer = (8192 + 2048) + (4096 + 1024) + 2 * (5504 + 1376) + (6144 + 1536)
    table = 64 * 512 + 2 * 512 * 4  # one, because the head is tied to it
    norms = 11 * 64 * 4
    assert layer == 36_800
    assert plan.weight_bytes == 5 * layer + table + norms == 223_680
    # 2 x 5 layers x 4 heads x 16 x 4 bytes a token.
    assert plan.kv_bytes == 16 * 512 * 2560
    # 64 rows of a chunk, three times gate and up side by side, and 16 rows of logits.
    assert plan.activation_bytes == 64 * 4 * 3 * 344 + 16 * 512 * 4
    assert plan.total_bytes == 223_680 + 20_971_520 + 296_960
    assert plan.memory_bytes == 2**30
    assert plan.fits and plan.as_dict()["fits"] is True


def with_store(mib: int, **limits: int) -> Profile:
    base = tiny_profile()
    return replace(base, limits=replace(base.limits, prefix_store_mib=mib, **limits))


def test_the_prefix_store_counts_where_it_lies_in_the_same_memory() -> None:
    plan = make_plan(STORIES, with_store(100))
    assert plan.store_bytes == 100 << 20
    assert plan.total_bytes == make_plan(STORIES, with_store(0)).total_bytes + (100 << 20)
    gpu = load_profile("l4-8b")
    larger = replace(gpu, limits=replace(gpu.limits, prefix_store_mib=1 << 20))
    assert make_plan(LLAMA_8B, larger) == make_plan(LLAMA_8B, gpu)


def test_a_prefix_store_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ProfileError, match=r"prefix store 1\.00\).*prefix_store_mib to 1003 "):
        require_fit(STORIES, with_store(1024))
    require_fit(STORIES, with_store(1003))
    with pytest.raises(ProfileError, match=r"lower limits\.capacity to \d+ or limits\.slots"):
        require_fit(STORIES, with_store(1, slots=10_000))


def with_precision(**changes: object) -> Profile:
    base = tiny_profile()
    return replace(base, precision=replace(base.precision, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("kv", ["fp16", "fp8"])
def test_a_cache_that_the_target_has_not_is_refused(kv: str) -> None:
    with pytest.raises(ProfileError, match=rf"precision.kv is '{kv}'.*caches of fp32 and int8"):
        require_fit(STORIES, with_precision(kv=kv))


def test_blocks_that_do_not_divide_are_refused_for_awq() -> None:
    odd = replace(STORIES, intermediate_size=352)
    require_fit(odd, with_precision(weights="int4_awq", block_size=32))
    with pytest.raises(ProfileError, match=r"intermediate_size 352 .*; use block_size 32, or"):
        require_fit(odd, with_precision(weights="int4_awq", block_size=64))
    with pytest.raises(ProfileError, match=r"172 is no multiple of it; use weights 'int4_rtn'"):
        require_fit(replace(STORIES, intermediate_size=172), with_precision(weights="int4_awq"))
    require_fit(odd, with_precision(weights="int4_rtn", block_size=64))


def test_a_slot_is_no_longer_than_the_model() -> None:
    assert make_plan(STORIES, tiny_profile(capacity=100_000)).capacity == 512


def test_an_untied_head_counts_twice() -> None:
    tied = make_plan(STORIES, tiny_profile()).weight_bytes
    untied = make_plan(replace(STORIES, tie_word_embeddings=False), tiny_profile()).weight_bytes
    assert untied - tied == 36_864


def test_the_advice_on_capacity_fits() -> None:
    """What the error proposes is enough, and one token more a slot is not."""
    profile = tiny_profile(memory_gib=0.005)
    with pytest.raises(ProfileError, match=r"lower limits\.capacity to \d+") as caught:
        require_fit(STORIES, profile)
    found = re.search(r"limits\.capacity to (\d+)", str(caught.value))
    assert found is not None
    capacity = int(found.group(1))
    assert require_fit(STORIES, tiny_profile(0.005, capacity=capacity)).fits
    assert not make_plan(STORIES, tiny_profile(0.005, capacity=capacity + 1)).fits


def test_a_model_too_big_for_the_device_says_so() -> None:
    with pytest.raises(ProfileError, match="a device with more memory") as caught:
        require_fit(LLAMA_8B, tiny_profile())
    assert "device.memory_gib is 1.00" in str(caught.value)


def test_llama_1b_fits_its_profile() -> None:
    plan = require_fit(LLAMA_1B, load_profile("cpu-1b"))
    assert 0.6 * 2**30 < plan.weight_bytes < 0.8 * 2**30  # 1.24 G parameters at about half a byte


RAW = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


def test_config_json_becomes_the_same_record() -> None:
    assert model_config_from_dict(RAW) == STORIES


def test_both_spellings_of_llama3_rope_are_read() -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    old = model_config_from_dict({**RAW, "rope_theta": 500000.0, "rope_scaling": scaling})
    new = model_config_from_dict({**RAW, "rope_parameters": {**scaling, "rope_theta": 500000.0}})
    assert old == new
    assert old.rope_theta == 500000.0
    assert old.rope_scaling is not None and old.rope_scaling.factor == 32.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mllama"}, "model_type is 'mllama'"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForCausalLM"),
        (
            {"quantization_config": {"bits": 4}},
            "quant_method is None; supported: modelopt, awq, gptq",
        ),
        ({"attention_bias": True}, "attention_bias is true"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_type is 'yarn'"),
        ({"num_key_value_heads": 3}, "not a multiple"),
        ({"head_dim": 7}, "head_dim is 7"),
        ({"vocab_size": None}, "vocab_size is None"),
        ({"num_hidden_layers": 0}, "num_layers is 0"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_another_model_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=re.escape(message)):
        model_config_from_dict({**RAW, **change})


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b"null"])
def test_a_config_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UnsupportedModelError, match=r"config\.json: (not JSON|holds a)"):
        read_model_config(tmp_path)
