"""Hold a backend to an expectation: chunks of prompts, then all sequences decoding together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgellama.optimize.expectation import Expectation
from edgellama.optimize.verify import Verification
from edgellama.runtime.backend import ScoringBackend
from edgellama.runtime.divergence import row_divergence
from edgellama.runtime.step import DecodeRow, Step

Logits = npt.NDArray[np.float32]


def _prefill(backend: ScoringBackend, slot: int, ids: Sequence[int], chunk: int) -> list[Logits]:
    """Feed ids chunk by chunk, each behind the one before."""
    return [
        backend.run_tokens(slot, ids[start : start + chunk], start)
        for start in range(0, len(ids), chunk)
    ]


def _score(
    backend: ScoringBackend, sequences: Sequence[tuple[int, ...]], chunk: int
) -> tuple[list[Logits], list[int]]:
    """Return the logits [length, vocab] of each sequence, and where its decode begins.

    The first half is prefilled, the second fed token by token, one row a sequence in every step:
    what serving does, with the given tokens instead of drawn ones.
    """
    starts = [max(1, len(ids) // 2) for ids in sequences]
    rows = [
        _prefill(backend, slot, ids[:start], chunk)
        for slot, (ids, start) in enumerate(zip(sequences, starts, strict=True))
    ]
    lengths = [*starts, *[0] * (backend.slots - len(sequences))]
    while any(length < len(ids) for length, ids in zip(lengths, sequences, strict=False)):
        decode = tuple(
            DecodeRow(slot, ids[lengths[slot]], lengths[slot])
            for slot, ids in enumerate(sequences)
            if lengths[slot] < len(ids)
        )
        # A finished row stays idle behind its tokens, which a full slot has no room for.
        held = tuple(min(length, backend.capacity - 1) for length in lengths)
        logits = backend.run(Step(decode, None, held))
        for row, drawn in zip(decode, logits, strict=True):
            rows[row.slot].append(np.array(drawn[None]))
            lengths[row.slot] += 1
    return [np.concatenate(parts) for parts in rows], starts


def verify_expected(backend: ScoringBackend, expectation: Expectation, chunk: int) -> Verification:
    """Compare a backend with what the model says; as many sequences at once as there are slots."""
    kl, kernel_kl, errors, same, chosen = [], [], [], [], []
    largest = 0.0
    for first in range(0, len(expectation.sequences), backend.slots):
        group = range(first, min(first + backend.slots, len(expectation.sequences)))
        found, starts = _score(backend, [expectation.sequences[i] for i in group], chunk)
        for index, ours, start in zip(group, found, starts, strict=True):
            theirs = expectation.reference[index]
            kl.append(row_divergence(theirs, ours))
            kernel_kl.append(row_divergence(expectation.stored[index], ours))
            errors.append(float(np.abs(ours - theirs).max()))
            largest = max(largest, float(np.abs(theirs).max()))
            agree = ours.argmax(axis=-1) == theirs.argmax(axis=-1)
            same.append(agree)
            chosen.append(agree[start:])
    divergence = np.concatenate(kl)
    return Verification(
        sequences=len(expectation.sequences),
        positions=len(divergence),
        greedy_agreement=float(np.concatenate(chosen).mean()),
        top1_agreement=float(np.concatenate(same).mean()),
        kl_mean=float(divergence.mean()),
        kl_max=float(divergence.max()),
        kernel_kl_mean=float(np.concatenate(kernel_kl).mean()),
        max_abs_logit_error=max(errors),
        max_abs_logit=largest,
    )
