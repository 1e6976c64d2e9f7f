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


def _layer(checkpoint: Checkpoint, config: LlamaConfig, index: int) -> LlamaDecoderLayer:
    """Return one decoder layer in float32 with the checkpoint's weights."""
    with torch.device("meta"):
        layer = LlamaDecoderLayer(config, index)
    prefix = f"model.layers.{index}."
    state = {name: checkpoint.read(prefix + name).float() for name in layer.state_dict()}
    layer.load_state_dict(state, assign=True)
    return layer.eval()


def _causal(length: int) -> torch.Tensor:
    """Return the additive mask float32 [1, 1, length, length]."""
    mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)
    return mask[None, None]


def reference_logits(
    checkpoint: Checkpoint,
    sequences: Sequence[Sequence[int]],
    on_layer: Callable[[int, int], None] | None = None,
) -> list[npt.NDArray[np.float32]]:
    """Run transformers' Llama in float32; returns logits [length, vocab] for each sequence.

    Weights are read layer by layer, so the peak is one layer, one table and the activations.
    `on_layer(done, total)` reports progress.
    """
    config = LlamaConfig.from_pretrained(checkpoint.folder)
    config._attn_implementation = "eager"
    rotary = LlamaRotaryEmbedding(config)
    ids = [torch.tensor(sequence, dtype=torch.int64)[None] for sequence in sequences]
    positions = [torch.arange(item.shape[1])[None] for item in ids]
    masks = [_causal(item.shape[1]) for item in ids]
    with torch.no_grad():
        table = checkpoint.read("model.embed_tokens.weight")
        hidden = [table[item].float() for item in ids]
        if not checkpoint.model.tie_word_embeddings:
            del table
            table = checkpoint.read("lm_head.weight")
        angles = [rotary(h, position_ids=p) for h, p in zip(hidden, positions, strict=True)]
        for index in range(checkpoint.model.num_layers):
            layer = _layer(checkpoint, config, index)
            hidden = [
                layer(h, attention_mask=m, position_embeddings=a)
                for h, m, a in zip(hidden, masks, angles, strict=True)
            ]
            if on_layer is not None:
                on_layer(index + 1, checkpoint.model.num_layers)
        norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        norm.load_state_dict({"weight": checkpoint.read("model.norm.weight").float()})
        final = torch.cat([norm(h)[0] for h in hidden])
        logits = np.empty((len(final), checkpoint.model.vocab_size), np.float32)
        for start in range(0, len(table), _HEAD_ROWS):
            rows = table[start : start + _HEAD_ROWS].float()
            logits[:, start : start + len(rows)] = (final @ rows.T).numpy()
    ends = np.cumsum([item.shape[1] for item in ids])
    return [logits[end - item.shape[1] : end] for end, item in zip(ends, ids, strict=True)]
