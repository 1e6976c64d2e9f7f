"""Hold a built engine to the reference: the same prompts through both, compared token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellama.profiles.profile import Precision
from edgellama.runtime.backend import ScoringBackend
from edgellama.runtime.chat import ChatMessage
from edgellama.runtime.divergence import row_divergence
from edgellama.runtime.step import DecodeRow, PrefillChunk, Step
from edgellama.runtime.text import TextCodec

Logits = npt.NDArray[np.float32]
# Returns, for sequences of ids, the logits of the model itself and of the model with the weights as
# the engine stores them.
Reference = Callable[[Sequence[Sequence[int]]], tuple[list[Logits], list[Logits]]]

PROMPTS = (
    "The capital of France is",
    "Once upon a time, there was a small",
    "To make tea, first boil the water. Then",
    "One, two, three, four, five,",
)
CHATS = ("What is the capital of Italy?", "Say hello to my friend Ben.")
NEW_TOKENS = 24
# Float engines must reproduce the reference up to the order of float32 sums; the bound is relative
# to the largest logit. Half precision rounds each weight by 2^-11, bfloat16 by 2^-8.
FLOAT_BARS = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1.6e-1}
# Quantised engines must compute what their own weights say: the kernels round activations to int8,
# worth a few thousandths of a nat; a wrong layout is worth whole nats.
KERNEL_KL_BAR = 0.05


@dataclass(frozen=True)
class Verification:
    """Agreement of an engine with transformers in float32, over `positions` teacher-forced rows.

    `greedy_agreement` is the share of generated tokens that are the reference's own choice,
    `top1_agreement` the share of all positions with the same best token, `kl_mean` the mean
    Kullback-Leibler divergence in nats from the reference to the engine, `max_abs_logit_error` the
    largest difference of a logit, `max_abs_logit` the reference's largest for scale: together what
    the precision loses. `kernel_kl_mean` is the divergence from the reference with the weights that
    the engine stores: what its fusions, layouts and kernels add, which must be next to nothing.
    """

    sequences: int
    positions: int
    greedy_agreement: float
    top1_agreement: float
    kl_mean: float
    kl_max: float
    kernel_kl_mean: float
    max_abs_logit_error: float
    max_abs_logit: float

    def as_dict(self) -> dict[str, Any]:
        """Return the plain form for `engine.json`."""
        return asdict(self)


def verification_prompts(codec: TextCodec, capacity: int) -> list[list[int]]:
    """Return the prompts as ids, chats included when the model has a template."""
    prompts = [codec.encode(text) for text in PROMPTS]
    if codec.has_chat_template:
        prompts += [codec.encode_chat([ChatMessage("user", text)]) for text in CHATS]
    room = max(1, capacity - NEW_TOKENS)
    return [ids[:room] for ids in prompts if ids]


def _continue_greedily(
    backend: ScoringBackend, prompts: list[list[int]], chunk: int
) -> list[list[int]]:
    """Generate from each prompt in slot 0 by the very steps that serving takes."""
    lengths_tail = (0,) * (backend.slots - 1)
    sequences = []
    for prompt in prompts:
        logits = None
        for start in range(0, len(prompt), chunk):
            tokens = tuple(prompt[start : start + chunk])
            last = start + len(tokens) == len(prompt)
            piece = PrefillChunk(0, tokens, start, last)
            logits = backend.run(Step((), piece, (start, *lengths_tail)))
        sequence = list(prompt)
        while len(sequence) < len(prompt) + NEW_TOKENS and len(sequence) < backend.capacity:
            assert logits is not None
            sequence.append(int(logits[0].argmax()))
            position = len(sequence) - 1
            row = DecodeRow(0, sequence[-1], position)
            logits = backend.run(Step((row,), None, (position, *lengths_tail)))
        sequences.append(sequence)
    return sequences


def verify_engine(
    backend: ScoringBackend, prompts: list[list[int]], chunk: int, reference: Reference
) -> Verification:
    """Generate greedily with the engine, then score the same ids with both, chunk by chunk."""
    sequences = _continue_greedily(backend, prompts, chunk)
    engine_logits = [
        np.concatenate(
            [
                backend.run_tokens(0, sequence[start : start + chunk], start)
                for start in range(0, len(sequence), chunk)
            ]
        )
        for sequence in sequences
    ]
    reference_logits, stored_logits = reference(sequences)
    kl, kernel_kl, errors, same, chosen = [], [], [], [], []
    largest = 0.0
    for prompt, sequence, ours, theirs, stored in zip(
        prompts, sequences, engine_logits, reference_logits, stored_logits, strict=True
    ):
        kl.append(row_divergence(theirs, ours))
        kernel_kl.append(row_divergence(stored, ours))
        errors.append(float(np.abs(ours - theirs).max()))
        largest = max(largest, float(np.abs(theirs).max()))
        best = theirs.argmax(axis=-1)
        same.append(ours.argmax(axis=-1) == best)
        chosen.append(best[len(prompt) - 1 : -1] == np.array(sequence[len(prompt) :]))
    divergence = np.concatenate(kl)
    return Verification(
        sequences=len(sequences),
        positions=len(divergence),
        greedy_agreement=float(np.concatenate(chosen).mean()),
        top1_agreement=float(np.concatenate(same).mean()),
        kl_mean=float(divergence.mean()),
        kl_max=float(divergence.max()),
        kernel_kl_mean=float(np.concatenate(kernel_kl).mean()),
        max_abs_logit_error=max(errors),
        max_abs_logit=largest,
    )


def verification_fault(result: Verification, precision: Precision) -> str | None:
    """Return why the engine is not what was asked for, or None when it is.

    What a quantised precision loses against the original weights has no bar here: it is reported.
    """
    figures = [result.kl_mean, result.kernel_kl_mean, result.max_abs_logit_error]
    if not np.isfinite(figures).all():
        return "the engine's logits hold NaN or infinity"
    if result.kernel_kl_mean > KERNEL_KL_BAR:
        return (
            f"the engine diverges by {result.kernel_kl_mean:.3f} nats from its own weights "
            f"computed in float32, the limit is {KERNEL_KL_BAR}"
        )
    kinds = {precision.weights, precision.embedding, precision.kv, precision.compute}
    if not kinds <= FLOAT_BARS.keys():
        return None
    coarsest = max(kinds, key=FLOAT_BARS.__getitem__)
    relative = result.max_abs_logit_error / max(result.max_abs_logit, 1e-9)
    if relative > FLOAT_BARS[coarsest]:
        return (
            f"largest logit error is {relative:.2e} of the largest logit, the limit for "
            f"{coarsest} is {FLOAT_BARS[coarsest]:.0e}"
        )
    return None
