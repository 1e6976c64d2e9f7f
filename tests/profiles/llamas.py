"""The shapes of Meta's models that the shipped profiles name, from their published config.json."""

from __future__ import annotations

from dataclasses import replace

from edgellama.profiles.model import ModelConfig, RopeScaling

LLAMA_1B = ModelConfig(
    vocab_size=128256,
    hidden_size=2048,
    intermediate_size=8192,
    num_layers=16,
    num_heads=32,
    num_kv_heads=8,
    head_dim=64,
    max_position_embeddings=131072,
    rms_norm_eps=1e-5,
    rope_theta=500000.0,
    rope_scaling=RopeScaling(32.0, 1.0, 4.0, 8192),
    tie_word_embeddings=True,
)
LLAMA_3B = replace(LLAMA_1B, hidden_size=3072, num_layers=28, num_heads=24, head_dim=128)
LLAMA_8B = replace(
    LLAMA_1B,
    hidden_size=4096,
    intermediate_size=14336,
    num_layers=32,
    head_dim=128,
    rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192),
    tie_word_embeddings=False,
)
LLAMA_70B = replace(
    LLAMA_8B, hidden_size=8192, intermediate_size=28672, num_layers=80, num_heads=64
)
MODELS = {
    "meta-llama/Llama-3.2-1B-Instruct": LLAMA_1B,
    "meta-llama/Llama-3.2-3B-Instruct": LLAMA_3B,
    "meta-llama/Llama-3.1-8B-Instruct": LLAMA_8B,
    "meta-llama/Llama-3.3-70B-Instruct": LLAMA_70B,
}
