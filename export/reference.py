"""The reference every engine is held to: transformers' own layers, one in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


# Called with a weight's name and float32 value [rows, inputs]; returns the value to compute with.
Variant = Callable[[str, npt.NDArray[np.float32]], npt.NDArray[np.float32]]


def as_stored(_name: str, weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the weight itself: the variant that is the model."""
    return weight


def _apply(variant: Variant, name: str, weight: torch.Tensor) -> torch.Tensor:
    """Return a matrix as the variant has it; norms are the same in every variant."""
    if weight.dim() != 2 or variant is as_stored:
        return weight
    return torch.from_numpy(variant(name, weight.numpy()))


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
) -> list[list[npt.NDArray[np.float32]]]:
    """Run transformers' Llama in float32; logits [length, vocab] per variant and sequence.

    Weights are read layer by layer, so the peak is one layer a variant, one table and the
    activations. `on_layer(done, total)` reports progress.
    """
    config = LlamaConfig.from_pretrained(checkpoint.folder)
    config._attn_implementation = "eager"
    rotary = LlamaRotaryEmbedding(config)
    ids = [torch.tensor(sequence, dtype=torch.int64)[None] for sequence in sequences]
    positions = [torch.arange(item.shape[1])[None] for item in ids]
    masks = [_causal(item.shape[1]) for item in ids]
    head_name = "lm_head.weight"
    with torch.no_grad():
        table = checkpoint.read("model.embed_tokens.weight")
        hidden = [[_embed(table, item, variant) for item in ids] for variant in variants]
        if checkpoint.model.tie_word_embeddings:
            head_name = "model.embed_tokens.weight"
        else:
            del table
            table = checkpoint.read(head_name)
        angles = [rotary(h, position_ids=p) for h, p in zip(hidden[0], positions, strict=True)]
        for index in range(checkpoint.model.num_layers):
            layers = _layers(checkpoint, config, index, variants)
            hidden = [
                [
                    layer(h, attention_mask=m, position_embeddings=a)
                    for h, m, a in zip(states, masks, angles, strict=True)
                ]
                for layer, states in zip(layers, hidden, strict=True)
            ]
            if on_layer is not None:
                on_layer(index + 1, checkpoint.model.num_layers)
        norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        norm.load_state_dict({"weight": checkpoint.read("model.norm.weight").float()})
        finals = [torch.cat([norm(h)[0] for h in states]) for states in hidden]
        logits = [np.empty((len(f), checkpoint.model.vocab_size), np.float32) for f in finals]
        for start in range(0, len(table), _HEAD_ROWS):
            rows = table[start : start + _HEAD_ROWS].float()
            for variant, final, out in zip(variants, finals, logits, strict=True):
                weight = _apply(variant, head_name, rows)
                out[:, start : start + len(rows)] = (final @ weight.T).numpy()
    ends = np.cumsum([item.shape[1] for item in ids])
    return [
        [out[end - item.shape[1] : end] for end, item in zip(ends, ids, strict=True)]
        for out in logits
    ]


def _embed(table: torch.Tensor, ids: torch.Tensor, variant: Variant) -> torch.Tensor:
    """Return the embeddings float32 [1, length, hidden] of ids [1, length]."""
    rows = _apply(variant, "model.embed_tokens.weight", table[ids[0]].float())
    return rows[None]
