"""A Llama in plain numpy, whose weights, inputs and cache entries can be rounded: the expectation
that quantised graphs are held to."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors.numpy import load_file

from edgellama.profiles.model import ModelConfig, read_model_config


class Rounding(Protocol):
    """What a precision makes of weights [N, K], inputs [S, K] and states [kv_heads, S, D]."""

    def __call__(self, name: str, rows: np.ndarray) -> np.ndarray: ...

    def inputs(self, name: str, x: np.ndarray) -> np.ndarray: ...

    def cached(self, layer: int, kind: str, states: np.ndarray) -> np.ndarray: ...


class NumpyLlama:
    """Logits of one sequence in float64 arithmetic over float32 weights."""

    def __init__(self, folder: Path) -> None:
        self.model: ModelConfig = read_model_config(folder)
        self.weights = {
            name: np.asarray(array, np.float32)
            for name, array in load_file(folder / "model.safetensors").items()
        }

    def inputs_of_linears(self, ids: list[int]) -> dict[str, np.ndarray]:
        """Return the input [S, K] of every linear, and keys and values as `N.key`, `N.value`."""
        seen: dict[str, np.ndarray] = {}
        self.logits(ids, None, seen)
        return seen

    def logits(
        self,
        ids: list[int],
        rounding: Rounding | None = None,
        seen: dict[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        model = self.model

        def weight(name: str) -> np.ndarray:
            array = self.weights[name]
            return array if rounding is None or array.ndim < 2 else rounding(name, array)

        def linear(x: np.ndarray, name: str) -> np.ndarray:
            if seen is not None:
                seen[name] = x
            if rounding is not None:
                x = rounding.inputs(name, x.astype(np.float32))
            return x.astype(np.float64) @ weight(name).T.astype(np.float64)

        def norm(x: np.ndarray, name: str) -> np.ndarray:
            scale = 1 / np.sqrt(np.square(x).mean(-1, keepdims=True) + model.rms_norm_eps)
            return x * scale * self.weights[name]

        def heads(x: np.ndarray, count: int) -> np.ndarray:
            return x.reshape(len(ids), count, model.head_dim).transpose(1, 0, 2)

        half = model.head_dim // 2
        frequencies = 1 / model.rope_theta ** (np.arange(half) / half)
        angles = np.arange(len(ids))[:, None] * frequencies[None]
        cos, sin = np.cos(angles), np.sin(angles)

        def rotate(x: np.ndarray) -> np.ndarray:
            first, second = x[..., :half], x[..., half:]
            return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

        def cached(layer: int, kind: str, states: np.ndarray) -> np.ndarray:
            if seen is not None:
                seen[f"{layer}.{kind}"] = states
            if rounding is None:
                return states
            return rounding.cached(layer, kind, states.astype(np.float32))

        mask = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
        x = weight("model.embed_tokens.weight")[ids].astype(np.float64)
        for layer in range(model.num_layers):
            prefix = f"model.layers.{layer}"
            h = norm(x, f"{prefix}.input_layernorm.weight")
            query, key, value = (
                heads(linear(h, f"{prefix}.self_attn.{part}_proj.weight"), count)
                for part, count in (
                    ("q", model.num_heads),
                    ("k", model.num_kv_heads),
                    ("v", model.num_kv_heads),
                )
            )
            group = model.num_heads // model.num_kv_heads
            keys = np.repeat(cached(layer, "key", rotate(key)), group, axis=0)
            values = np.repeat(cached(layer, "value", value), group, axis=0)
            scores = rotate(query) @ keys.transpose(0, 2, 1) / np.sqrt(model.head_dim) + mask
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            shares /= shares.sum(-1, keepdims=True)
            mixed = (shares @ values).transpose(1, 0, 2).reshape(len(ids), -1)
            x = x + linear(mixed, f"{prefix}.self_attn.o_proj.weight")
            h = norm(x, f"{prefix}.post_attention_layernorm.weight")
            gate = linear(h, f"{prefix}.mlp.gate_proj.weight")
            up = linear(h, f"{prefix}.mlp.up_proj.weight")
            x = x + linear(gate / (1 + np.exp(-gate)) * up, f"{prefix}.mlp.down_proj.weight")
        x = norm(x, "model.norm.weight")
        tied = model.tie_word_embeddings
        head = "model.embed_tokens.weight" if tied else "lm_head.weight"
        return (x @ weight(head).T.astype(np.float64)).astype(np.float32)
