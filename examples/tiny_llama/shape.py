"""State the shape of the tiny model as the files of a Llama 3 checkpoint."""

from typing import Any

CONTEXT = 512
VOCAB = 2048

_END_OF_TEXT, _END_OF_MESSAGE, _END_OF_TURN = "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"


def config(token_ids: dict[str, int]) -> dict[str, Any]:
    """Return config.json; every linear's input width is a multiple of 128."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": token_ids["<|begin_of_text|>"],
        "eos_token_id": stop_ids(token_ids),
        "head_dim": 32,
        "hidden_act": "silu",
        "hidden_size": 256,
        "initializer_range": 0.02,
        "intermediate_size": 768,
        "max_position_embeddings": CONTEXT,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 8,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 4.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 128,
            "rope_type": "llama3",
        },
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": VOCAB,
    }


def generation_config(token_ids: dict[str, int]) -> dict[str, Any]:
    """Return generation_config.json with the sampling defaults of the Llama 3 chat models."""
    return {
        "bos_token_id": token_ids["<|begin_of_text|>"],
        "do_sample": True,
        "eos_token_id": stop_ids(token_ids),
        "temperature": 0.6,
        "top_p": 0.9,
    }


def stop_ids(token_ids: dict[str, int]) -> list[int]:
    """List the ids that end an answer."""
    return [token_ids[name] for name in (_END_OF_TEXT, _END_OF_MESSAGE, _END_OF_TURN)]
