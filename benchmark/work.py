"""The least that a step of an engine must do: bytes read, numbers multiplied."""

from __future__ import annotations

from dataclasses import dataclass

from edgellama.profiles.plan import make_plan
from edgellama.runtime.manifest import Manifest


@dataclass(frozen=True)
class Work:
    """Bytes that must be read, and operations (a multiplication and an addition are two)."""

    bytes: int
    operations: int

    @property
    def intensity(self) -> float:
        """Operations a byte: where the step stands on a roofline."""
        return self.operations / self.bytes


def weight_bytes(manifest: Manifest) -> int:
    """Return the bytes of weights that every step reads, as the engine stores them.

    The embedding is gathered row by row; the head, its twin or not, is read whole.
    """
    plan = make_plan(manifest.model, manifest.profile)
    tables = 1 if manifest.model.tie_word_embeddings else 2
    return plan.linear_bytes + plan.table_bytes // tables + plan.norm_bytes


def decode_work(manifest: Manifest, rows: int, context: int) -> Work:
    """Return the work of one step that decodes `rows` sequences, each `context` tokens long.

    Weights once, keys and values of each row once; 2 operations a weight and row, and 4 a feature
    of a query head and token of the past (scores, and their sum of values), in every layer.
    """
    model, kv = manifest.model, manifest.kv
    per_token = model.num_layers * 4 * model.query_size
    return Work(
        bytes=weight_bytes(manifest) + rows * context * kv.bytes_per_token,
        operations=rows * (2 * (_linear_parameters(manifest) + _head(manifest)))
        + rows * context * per_token,
    )


def prefill_work(manifest: Manifest, tokens: int) -> Work:
    """Return the work of reading one prompt: its chunks each read the weights.

    A token attends to itself and those before it: tokens x (tokens + 1) / 2 pairs. The head is
    needed for the last token only.
    """
    model, kv = manifest.model, manifest.kv
    chunk = manifest.profile.limits.prefill_chunk
    chunks = -(-tokens // chunk)
    pairs = tokens * (tokens + 1) // 2
    past = sum(min(tokens, (number + 1) * chunk) for number in range(chunks))
    return Work(
        bytes=chunks * weight_bytes(manifest) + past * kv.bytes_per_token,
        operations=2 * tokens * _linear_parameters(manifest)
        + pairs * model.num_layers * 4 * model.query_size
        + 2 * _head(manifest),
    )


def _linear_parameters(manifest: Manifest) -> int:
    """Return the weights of the linears of all layers."""
    model = manifest.model
    layer = (
        model.hidden_size * (model.query_size + 2 * model.kv_size)
        + model.query_size * model.hidden_size
        + 3 * model.hidden_size * model.intermediate_size
    )
    return model.num_layers * layer


def _head(manifest: Manifest) -> int:
    return manifest.model.hidden_size * manifest.model.vocab_size
