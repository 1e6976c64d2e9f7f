"""The committed checkpoint has the promised shape and answers its held-out questions."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, GenerationConfig

from edgellama.examples.tiny_llama import questions, score
from edgellama.examples.tiny_llama.train import FOLDER


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """The committed config.json."""
    settings: dict[str, Any] = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    return settings


def test_the_shape_is_that_of_a_small_llama_3(config: dict[str, Any]) -> None:
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["num_attention_heads"] == 4 * config["num_key_value_heads"]
    assert config["head_dim"] in (32, 64)
    assert config["rope_scaling"]["rope_type"] == "llama3"
    assert config["vocab_size"] <= 4096


def test_every_linear_is_a_multiple_of_128_wide(config: dict[str, Any]) -> None:
    attention = config["num_attention_heads"] * config["head_dim"]
    for width in (config["hidden_size"], attention, config["intermediate_size"]):
        assert width % 128 == 0


def test_the_weights_are_small_and_bf16() -> None:
    file = FOLDER / "model.safetensors"
    assert file.stat().st_size <= 12 << 20
    with safe_open(file, "pt") as weights:
        values = [weights.get_tensor(name) for name in weights.keys()]  # noqa: SIM118
    assert {value.dtype for value in values} == {torch.bfloat16}
    assert 3_000_000 <= sum(value.numel() for value in values) <= 6_000_000
    assert all(bool(value.isfinite().all()) for value in values)


def test_transformers_loads_the_rope_scaling(config: dict[str, Any]) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(FOLDER)
    assert model.config.rope_parameters == {
        **config["rope_scaling"],
        "rope_theta": config["rope_theta"],
    }
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_generation_stops_at_every_end_token() -> None:
    settings = GenerationConfig.from_pretrained(FOLDER)
    assert isinstance(settings.eos_token_id, list)
    assert len(settings.eos_token_id) == 3
    assert (settings.do_sample, settings.temperature, settings.top_p) == (True, 0.6, 0.9)


def test_the_committed_score_is_over_the_bars() -> None:
    result = json.loads((FOLDER / "score.json").read_text(encoding="utf-8"))
    assert result["passed"] is True
    for kind, bar in score.BARS.items():
        assert result["kinds"][kind]["percent"] >= bar
        assert result["kinds"][kind]["questions"] >= 200


def test_the_committed_weights_answer_a_sample() -> None:
    torch.set_num_threads(2)
    sample = [each for each in questions.load() if each.kind in score.BARS][::10]
    assert len(sample) == 60
    result = score.score(sample, score.answers(FOLDER, sample, quiet=True))
    for kind, bar in score.BARS.items():
        # Thirty questions of a kind are a coarse measure: allow two more wrong answers.
        assert result["kinds"][kind]["percent"] >= bar - 7, result
