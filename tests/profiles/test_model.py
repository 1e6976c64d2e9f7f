"""Meta's own configurations are read exactly; what is no text Llama is refused by name."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellama.profiles.model import (
    ModelConfig,
    RopeScaling,
    UnsupportedModelError,
    model_config_from_dict,
    read_model_config,
)

# The fields of Meta's config.json files, as published on the hub.
LLAMA_3: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}
SCALED_8 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
SCALED_32 = {**SCALED_8, "factor": 32.0}
SIZE_70B = {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
}
LLAMA_31 = {
    **LLAMA_3,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "rope_scaling": SCALED_8,
    "transformers_version": "4.42.3",
}
INSTRUCT = {"eos_token_id": [128001, 128008, 128009]}
LLAMA_32_1B = {
    **LLAMA_31,
    "head_dim": 64,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "rope_scaling": SCALED_32,
    "tie_word_embeddings": True,
    "transformers_version": "4.45.0.dev0",
}
LLAMA_32_3B = {
    **LLAMA_32_1B,
    "head_dim": 128,
    "hidden_size": 3072,
    "num_attention_heads": 24,
    "num_hidden_layers": 28,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "Meta-Llama-3-8B": LLAMA_3,
    "Meta-Llama-3-8B-Instruct": {**LLAMA_3, "eos_token_id": 128009},
    "Meta-Llama-3-70B": {**LLAMA_3, **SIZE_70B},
    "Llama-3.1-8B": LLAMA_31,
    "Llama-3.1-70B-Instruct": {**LLAMA_31, **SIZE_70B, **INSTRUCT},
    "Llama-3.3-70B-Instruct": {**LLAMA_31, **SIZE_70B, **INSTRUCT, "head_dim": 128},
    "Llama-3.2-1B": LLAMA_32_1B,
    "Llama-3.2-3B-Instruct": {**LLAMA_32_3B, **INSTRUCT},
    "Llama-Guard-3-8B": {**LLAMA_31, **INSTRUCT},
    "Llama-Guard-3-1B": {**LLAMA_32_1B, **INSTRUCT, "pad_token_id": 128004},
}
# hidden, intermediate, layers, heads, head_dim, positions, rope factor, tied, parameters
EXPECTED: dict[str, tuple[int, int, int, int, int, int, float | None, bool, int]] = {
    "Meta-Llama-3-8B": (4096, 14336, 32, 32, 128, 8192, None, False, 8_030_261_248),
    "Meta-Llama-3-8B-Instruct": (4096, 14336, 32, 32, 128, 8192, None, False, 8_030_261_248),
    "Meta-Llama-3-70B": (8192, 28672, 80, 64, 128, 8192, None, False, 70_553_706_496),
    "Llama-3.1-8B": (4096, 14336, 32, 32, 128, 131072, 8.0, False, 8_030_261_248),
    "Llama-3.1-70B-Instruct": (8192, 28672, 80, 64, 128, 131072, 8.0, False, 70_553_706_496),
    "Llama-3.3-70B-Instruct": (8192, 28672, 80, 64, 128, 131072, 8.0, False, 70_553_706_496),
    "Llama-3.2-1B": (2048, 8192, 16, 32, 64, 131072, 32.0, True, 1_235_814_400),
    "Llama-3.2-3B-Instruct": (3072, 8192, 28, 24, 128, 131072, 32.0, True, 3_212_749_824),
    "Llama-Guard-3-8B": (4096, 14336, 32, 32, 128, 131072, 8.0, False, 8_030_261_248),
    "Llama-Guard-3-1B": (2048, 8192, 16, 32, 64, 131072, 32.0, True, 1_235_814_400),
}


def in_transformers_5(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the same configuration as transformers 5 writes it."""
    rope = raw["rope_scaling"] or {"rope_type": "default"}
    dropped = ("rope_scaling", "rope_theta", "torch_dtype")
    kept = {key: value for key, value in raw.items() if key not in dropped}
    parameters = {**rope, "rope_theta": raw["rope_theta"]}
    return {**kept, "dtype": raw["torch_dtype"], "rope_parameters": parameters}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
def test_published_models(tmp_path: Path, name: str, spelling: str) -> None:
    raw = PUBLISHED[name] if spelling == "rope_scaling" else in_transformers_5(PUBLISHED[name])
    (tmp_path / "config.json").write_text(json.dumps(raw))
    hidden, middle, layers, heads, head_dim, positions, factor, tied, parameters = EXPECTED[name]
    config = read_model_config(tmp_path)
    assert config == ModelConfig(
        vocab_size=128256,
        hidden_size=hidden,
        intermediate_size=middle,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=8,
        head_dim=head_dim,
        max_position_embeddings=positions,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling=None if factor is None else RopeScaling(factor, 1.0, 4.0, 8192),
        tie_word_embeddings=tied,
    )
    assert config.num_parameters == parameters


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
def test_transformers_reads_the_same(name: str, spelling: str) -> None:
    transformers = pytest.importorskip("transformers")
    raw = PUBLISHED[name] if spelling == "rope_scaling" else in_transformers_5(PUBLISHED[name])
    theirs = transformers.LlamaConfig.from_dict(raw)
    ours = model_config_from_dict(raw)
    assert ours.num_layers == theirs.num_hidden_layers
    assert (ours.num_heads, ours.num_kv_heads, ours.head_dim) == (
        theirs.num_attention_heads,
        theirs.num_key_value_heads,
        theirs.head_dim,
    )
    assert ours.rms_norm_eps == theirs.rms_norm_eps
    assert ours.tie_word_embeddings == theirs.tie_word_embeddings
    rope = theirs.rope_parameters
    assert ours.rope_theta == rope["rope_theta"]
    assert (ours.rope_scaling is None) == (rope["rope_type"] == "default")
    if ours.rope_scaling is not None:
        assert asdict(ours.rope_scaling).items() <= rope.items()


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in LLAMA_31.items() if key not in keys}


def test_absent_and_null_fields_have_the_defaults_of_transformers() -> None:
    for raw in (
        without("head_dim", "num_key_value_heads", "tie_word_embeddings", "attention_bias"),
        {**LLAMA_31, "head_dim": None, "num_key_value_heads": None, "tie_word_embeddings": None},
    ):
        config = model_config_from_dict(raw)
        assert (config.head_dim, config.num_kv_heads) == (128, 32)
        assert config.tie_word_embeddings is False
    assert model_config_from_dict(without("rope_scaling", "rope_theta")).rope_theta == 10000.0


@pytest.mark.parametrize(
    "changes",
    [
        {"pretraining_tp": 2},
        {"partial_rotary_factor": 1.0},
        {"sliding_window": None},
        {"sliding_window": 4096, "use_sliding_window": False},
        {"eos_token_id": [1, 2]},
        {"hidden_size": 4096.0},
        {"architectures": None},
        {"rope_scaling": {**SCALED_8, "rope_theta": 500000.0}},
        {"rope_scaling": SCALED_8, "rope_parameters": {**SCALED_8, "rope_theta": 500000.0}},
        {"quantization_config": None},
        {"vision_config": None},
    ],
)
def test_what_changes_nothing_is_accepted(changes: dict[str, Any]) -> None:
    assert model_config_from_dict({**LLAMA_31, **changes}) == model_config_from_dict(LLAMA_31)


def test_the_old_name_of_the_rope_type() -> None:
    scaling = {key: value for key, value in SCALED_8.items() if key != "rope_type"}
    config = model_config_from_dict({**LLAMA_31, "rope_scaling": {**scaling, "type": "llama3"}})
    assert config == model_config_from_dict(LLAMA_31)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mllama"}, "'mllama', a vision model .*Guard 3 11B Vision"),
        ({"model_type": "llama4"}, "'llama4', Llama 4"),
        ({"model_type": "llama4_text"}, "'llama4_text', Llama 4, a mixture"),
        ({"model_type": "qwen3"}, "model_type is 'qwen3'"),
        ({"vision_config": {"depth": 3}}, "vision_config is set"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"architectures": 5}, "architectures is 5"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
        ({"rope_scaling": {**SCALED_8, "factor": "8"}}, "factor is '8'; a number"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "factor is None"),
        ({"rope_scaling": "llama3"}, "rope_scaling is 'llama3'; an object"),
        ({"rope_scaling": {**SCALED_8, "rope_theta": 1e4}}, "rope_theta is 500000.0, but 10000.0"),
        ({"rope_parameters": SCALED_32}, "rope_scaling and rope_parameters disagree on factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_scaling": {**SCALED_8, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"sliding_window": 4096}, "sliding_window is 4096"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'; it must be true or"),
        ({"attention_bias": "no"}, "attention_bias is 'no'"),
        ({"mlp_bias": True}, "mlp_bias is true"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"hidden_size": 4096.5}, "hidden_size is 4096.5; a whole number"),
        ({"hidden_size": 4100}, "hidden_size 4100 is not a multiple of num_attention_heads 32"),
        ({"num_attention_heads": 0}, "num_heads is 0"),
        ({"num_key_value_heads": 5}, "not a multiple of num_key_value_heads 5"),
        ({"head_dim": 63}, "head_dim is 63"),
        ({"vocab_size": None}, "vocab_size is None"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"rms_norm_eps": "1e-05"}, "rms_norm_eps is '1e-05'"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0.0; it must be > 0"),
    ],
)
def test_another_model_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"config.json: .*{message}"):
        model_config_from_dict({**LLAMA_31, **changes})


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("params.json", "Meta's original layout"),
        ("adapter_config.json", "an adapter and no model"),
        ("README.md", "no config.json"),
    ],
)
def test_a_folder_without_config_is_told_what_it_is(
    tmp_path: Path, file: str, message: str
) -> None:
    (tmp_path / file).write_text("{}")
    with pytest.raises(UnsupportedModelError, match=message):
        read_model_config(tmp_path)


LEAVES = [None, True, "", "llama3", "rope_theta", 0, -1, 64, 2.5, 1e400, float("nan"), 10**400]
JSON = st.recursive(
    st.sampled_from(LEAVES) | st.integers() | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["rope_type", "factor", "type"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=500, deadline=None)
@given(field=st.sampled_from([*LLAMA_31, "rope_parameters", "partial_rotary_factor"]), value=JSON)
def test_any_value_is_read_or_refused(field: str, value: Any) -> None:
    try:
        config = model_config_from_dict({**LLAMA_31, field: value})
    except UnsupportedModelError as error:
        assert str(error).startswith("config.json: ")
    else:
        assert config.num_parameters > 0


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "9" * 5000, "\xff"])
def test_a_file_that_is_no_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(UnsupportedModelError, match=r"config\.json: (not JSON|holds a list)"):
        read_model_config(tmp_path)
