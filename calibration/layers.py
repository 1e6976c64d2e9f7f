"""One decoder layer at a time: what flows through it on the calibration tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import LlamaConfig
from transformers.cache_utils import DynamicCache
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from edgellama.export.checkpoint import Checkpoint

Floats = npt.NDArray[np.float32]
# Projections of one decoder layer that read the same input; each group is calibrated as one linear.
GROUPS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
_TABLE_ROWS = 8192  # rows of the embedding read at once


@dataclass
class Flow:
    """What one layer was given and gave, over all sequences; tensors are float32.

    `inputs` has rows [tokens, K] by the first projection of a group; `keys` (rotated) and `values`
    [tokens, kv_heads, head_dim]; `outputs` [tokens, hidden] a sequence.
    """

    inputs: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)


def embedded(checkpoint: Checkpoint, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Return the embeddings float32 [tokens, hidden] of every sequence; reads block by block."""
    ids = torch.tensor([token for sequence in sequences for token in sequence])
    model = checkpoint.model
    hidden = torch.empty(len(ids), model.hidden_size)
    for start in range(0, model.vocab_size, _TABLE_ROWS):
        stop = min(start + _TABLE_ROWS, model.vocab_size)
        here = (ids >= start) & (ids < stop)
        if bool(here.any()):
            rows = checkpoint.read_rows("model.embed_tokens.weight", start, stop)
            hidden[here] = rows[ids[here] - start].float()
    return list(torch.split(hidden, [len(sequence) for sequence in sequences]))


def group_weight(checkpoint: Checkpoint, layer: int, group: Sequence[str]) -> torch.Tensor:
    """Return the weights of a group as one linear, float32 [sum of outputs, K]."""
    parts = (checkpoint.read(weight_name(layer, name)) for name in group)
    return torch.cat([part.float() for part in parts])


def weight_name(layer: int, projection: str) -> str:
    """Return the name of a projection's weight in the checkpoint."""
    return f"model.layers.{layer}.{projection}.weight"


class LayerStream:
    """Runs decoder layers in float32, one in memory, a sequence at a time."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._config = LlamaConfig.from_pretrained(checkpoint.folder)
        self._config._attn_implementation = "sdpa"
        self._rotary = LlamaRotaryEmbedding(self._config)

    def run(self, index: int, states: Sequence[torch.Tensor], *, linears: bool, kv: bool) -> Flow:
        """Pass the states [tokens, hidden] of every sequence through layer `index`.

        `linears` and `kv` say what to record besides the outputs, which are those of the
        unquantised layer, as modelopt's own calibration of a whole model passes them on.
        """
        layer = self._layer(index)
        flow = Flow()
        if linears:
            for group in GROUPS:
                rows = flow.inputs.setdefault(group[0], [])
                layer.get_submodule(group[0]).register_forward_pre_hook(_recorder(rows))
        with torch.no_grad():
            for state in states:
                hidden = state[None]
                angles = self._rotary(hidden, position_ids=torch.arange(len(state))[None])
                cache = DynamicCache() if kv else None
                out = layer(hidden, position_embeddings=angles, past_key_values=cache)
                flow.outputs.append(out[0])
                if cache is not None:
                    cached: Any = cache.layers[index]
                    flow.keys.append(_tokens_first(cached.keys))
                    flow.values.append(_tokens_first(cached.values))
        return flow

    def _layer(self, index: int) -> LlamaDecoderLayer:
        with torch.device("meta"):
            layer = LlamaDecoderLayer(self._config, index).eval()
        prefix = f"model.layers.{index}."
        state = {name: self._checkpoint.read(prefix + name).float() for name in layer.state_dict()}
        layer.load_state_dict(state, assign=True)
        return layer


def _recorder(rows: list[torch.Tensor]) -> Any:
    def record(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        rows.append(inputs[0][0])

    return record


def _tokens_first(cached: torch.Tensor) -> torch.Tensor:
    """Turn [1, heads, tokens, features] into [tokens, heads, features]."""
    return cached[0].transpose(0, 1)


def batches(rows: Sequence[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    """Yield the rows [tokens, K] of all sequences in batches of `size`; the last is shorter."""
    yield from torch.split(torch.cat(list(rows)), size)
