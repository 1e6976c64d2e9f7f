"""What is traced: transformers' Llama with past and present as plain inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.onnx.ops
from transformers import AttentionInterface, AttentionMaskInterface, LlamaForCausalLM

ATTENTION = "edgellama_onnx"
KeyValue: TypeAlias = tuple[torch.Tensor, torch.Tensor]


class _TraceCache:
    """Stands in for transformers' cache: hands each layer its past and collects its present.

    `mask` is the boolean [batch, 1, sequence, past + sequence] of visible positions. It says what
    `is_causal` leaves to the runtime's reading of the standard when a past is present.
    """

    is_compileable = False
    is_sliding = (False,)
    layers: tuple[()] = ()

    def __init__(self, past: list[KeyValue], position_ids: torch.Tensor) -> None:
        self.past = past
        self.present: list[KeyValue | None] = [None] * len(past)
        total = past[0][0].shape[2] + position_ids.shape[1]
        kv_index = torch.arange(total, device=position_ids.device)
        self.mask = kv_index[None, None, None, :] <= position_ids[:, None, :, None]

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: object, **__: object
    ) -> KeyValue:
        """Return the new keys and values alone: the ONNX operator itself appends them."""
        return key, value

    def get_seq_length(self, *_: object) -> int:
        """Return the past length."""
        return self.past[0][0].shape[2]

    def get_mask_sizes(self, *_: object, **__: object) -> tuple[int, int]:
        """Return (kv length, offset); unused because the mask hook returns None."""
        return 1, 0

    def get_query_offset(self, *_: object) -> int:
        """Return the offset of the first query; unused likewise."""
        return 0


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    edgellama_cache: _TraceCache,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Emit ONNX `Attention` on query [B, H, S, D] and key/value [B, KV, S, D] with their past."""
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    past_key, past_value = edgellama_cache.past[layer]
    output, present_key, present_value, _scores = torch.onnx.ops.attention(
        query, key, value, edgellama_cache.mask, past_key, past_value, scale=scaling
    )
    edgellama_cache.present[layer] = (present_key, present_value)
    return output.transpose(1, 2), None


class TracedLlama(torch.nn.Module):
    """The traced signature: ids, positions and past in; logits and present out."""

    def __init__(self, llama: LlamaForCausalLM) -> None:
        super().__init__()
        self.llama = llama

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, past: list[KeyValue]
    ) -> tuple[torch.Tensor, list[KeyValue | None]]:
        cache = _TraceCache(past, position_ids)
        hidden = self.llama.model(
            input_ids=input_ids,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            edgellama_cache=cache,
        ).last_hidden_state
        return self.llama.lm_head(hidden), cache.present


def register_hooks() -> None:
    """Let transformers find the attention that is traced, and leave the mask to it."""
    AttentionInterface.register(ATTENTION, _attention)
    no_mask: Callable[..., None] = lambda *_, **__: None  # noqa: E731
    AttentionMaskInterface.register(ATTENTION, no_mask)
