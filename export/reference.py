"""The reference every engine is held to: transformers' own layers, one in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from edgellama.export.checkpoint import Checkpoint

_HEAD_ROWS = 8192  # rows of the head widened to float32 at once


Floats = npt.NDArray[np.float32]
# Called with the index of a streamed sequence and its logits [length, vocab].
OnLogits = Callable[[int, Floats], None]


class Variant(Protocol):
    """The model with other values: what a weight, a linear's input or a cache entry becomes.

    Called with a weight's name and float32 value [rows, inputs]; norms are the same in every one.
    """

    @property
    def rounds_inputs(self) -> bool:
        """Whether `inputs` changes anything."""

    @property
    def rounds_cache(self) -> bool:
        """Whether `cached` changes anything."""

    def __call__(self, name: str, rows: Floats, /) -> Floats:
        """Return the weight to compute with, of the same shape."""

    def inputs(self, name: str, x: Floats) -> Floats:
        """Return the input [..., K] that the linear of weight `name` computes with."""

    def cached(self, layer: int, kind: str, states: Floats) -> Floats:
        """Return rotated keys or values [kv_heads, length, head_dim] as attention reads them."""


class _AsStored:
    """The variant that is the model itself."""

    rounds_inputs = rounds_cache = False

    def __call__(self, name: str, rows: Floats, /) -> Floats:
        return rows

    def inputs(self, name: str, x: Floats) -> Floats:
        return x

    def cached(self, layer: int, kind: str, states: Floats) -> Floats:
        return states


as_stored: Variant = _AsStored()


def _apply(variant: Variant, name: str, weight: torch.Tensor) -> torch.Tensor:
    """Return a matrix as the variant has it."""
    if weight.dim() != 2 or variant is as_stored:
        return weight
    return torch.from_numpy(variant(name, weight.numpy()))


class _Cache:
    """What transformers' attention takes for a cache: returns the new keys and values, rounded."""

    def __init__(self, variant: Variant) -> None:
        self._variant = variant

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Round keys and values [1, kv_heads, length, head_dim]."""

        def cached(kind: str, states: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(self._variant.cached(layer, kind, states[0].numpy()))[None]

        return cached("key", keys), cached("value", values)


def _round_inputs(layer: LlamaDecoderLayer, prefix: str, variant: Variant) -> None:
    """Let every linear of a layer read its input as the variant has it."""

    def hook(name: str) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], torch.Tensor]:
        return lambda _module, x: torch.from_numpy(variant.inputs(name, x[0].numpy()))

    for name, module in layer.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(hook(f"{prefix}{name}.weight"))


def _layers(
    checkpoint: Checkpoint, config: LlamaConfig, index: int, variants: Sequence[Variant]
) -> list[LlamaDecoderLayer]:
    """Return one decoder layer in float32 for each variant; the weights are read once."""
    prefix = f"model.layers.{index}."
    layers = []
    for _ in variants:
        with torch.device("meta"):
            layers.append(LlamaDecoderLayer(config, index).eval())
    weights = {name: checkpoint.read(prefix + name).float() for name in layers[0].state_dict()}
    for variant, layer in zip(variants, layers, strict=True):
        state = {name: _apply(variant, prefix + name, w) for name, w in weights.items()}
        layer.load_state_dict(state, assign=True)
        if variant.rounds_inputs:
            _round_inputs(layer, prefix, variant)
    return layers


def _causal(length: int) -> torch.Tensor:
    """Return the additive mask float32 [1, 1, length, length]."""
    mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)
    return mask[None, None]


def reference_logits(
    checkpoint: Checkpoint,
    sequences: Sequence[Sequence[int]],
    on_layer: Callable[[int, int], None] | None = None,
    variants: Sequence[Variant] = (as_stored,),
    streamed: Sequence[Sequence[int]] = (),
    on_logits: OnLogits | None = None,
) -> list[list[npt.NDArray[np.float32]]]:
    """Run transformers' Llama in float32; logits [length, vocab] per variant and sequence.

    Weights are read layer by layer, so the peak is one layer a variant, one table and the
    activations. `on_layer(done, total)` reports progress. The `streamed` sequences take part in the
    same pass, as the first variant only: their logits go to `on_logits` and are not kept.
    """
    config = LlamaConfig.from_pretrained(checkpoint.folder)
    config._attn_implementation = "eager"
    rotary = LlamaRotaryEmbedding(config)
    ids = [torch.tensor(sequence, dtype=torch.int64)[None] for sequence in (*sequences, *streamed)]
    # Every variant has the sequences; the first has the streamed ones behind them.
    counts = [len(ids), *(len(sequences) for _ in variants[1:])]
    positions = [torch.arange(item.shape[1])[None] for item in ids]
    masks = [_causal(item.shape[1]) for item in ids]
    head_name = "lm_head.weight"
    with torch.no_grad():
        table = checkpoint.read("model.embed_tokens.weight")
        hidden = [
            [_embed(table, item, variant) for item in ids[:count]]
            for variant, count in zip(variants, counts, strict=True)
        ]
        if checkpoint.model.tie_word_embeddings:
            head_name = "model.embed_tokens.weight"
        else:
            del table
            table = checkpoint.read(head_name)
        angles = [rotary(h, position_ids=p) for h, p in zip(hidden[0], positions, strict=True)]
        caches = [_Cache(variant) if variant.rounds_cache else None for variant in variants]
        for index in range(checkpoint.model.num_layers):
            layers = _layers(checkpoint, config, index, variants)
            hidden = [
                [
                    layer(h, attention_mask=m, position_embeddings=a, past_key_values=cache)
                    for h, m, a in zip(states, masks, angles, strict=False)
                ]
                for layer, states, cache in zip(layers, hidden, caches, strict=True)
            ]
            if on_layer is not None:
                on_layer(index + 1, checkpoint.model.num_layers)
        norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        norm.load_state_dict({"weight": checkpoint.read("model.norm.weight").float()})
        for index in range(len(streamed)):
            final = norm(hidden[0].pop(len(sequences)))[0]
            if on_logits is not None:
                on_logits(index, _head(table, head_name, [variants[0]], [final])[0])
        if not sequences:
            return [[] for _ in variants]
        finals = [torch.cat([norm(h)[0] for h in states]) for states in hidden]
        logits = _head(table, head_name, variants, finals)
    ends = np.cumsum([item.shape[1] for item in ids[: len(sequences)]])
    return [
        [out[end - item.shape[1] : end] for end, item in zip(ends, ids, strict=False)]
        for out in logits
    ]


def _head(
    table: torch.Tensor, name: str, variants: Sequence[Variant], finals: Sequence[torch.Tensor]
) -> list[npt.NDArray[np.float32]]:
    """Return logits [n, vocab] of each variant's normed states [n, hidden]."""
    logits = [np.empty((len(final), len(table)), np.float32) for final in finals]
    for start in range(0, len(table), _HEAD_ROWS):
        rows = table[start : start + _HEAD_ROWS].float()
        for variant, final, out in zip(variants, finals, logits, strict=True):
            weight = _apply(variant, name, rows)
            out[:, start : start + len(rows)] = (final @ weight.T).numpy()
    return logits


def _embed(table: torch.Tensor, ids: torch.Tensor, variant: Variant) -> torch.Tensor:
    """Return the embeddings float32 [1, length, hidden] of ids [1, length]."""
    rows = _apply(variant, "model.embed_tokens.weight", table[ids[0]].float())
    return rows[None]
