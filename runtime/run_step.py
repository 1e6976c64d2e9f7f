"""Run a step on a backend, with the logits of more tokens where these are wanted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgellama.runtime.backend import Logits, ScoringBackend
from edgellama.runtime.step import Step


def run_step(backend: ScoringBackend, step: Step) -> tuple[Logits, Logits | None]:
    """Run a step; returns its logits, and those of all tokens of a chunk that is scored.

    Such a chunk is a run of its own behind the rows, and the only one whose logits are as many as
    its tokens: float32 `[tokens, vocab_size]`, held until the next step. A row with a draft is a
    run of all its tokens.
    """
    if step.draft:
        (row,) = step.decode
        assert step.prefill is None, "a row with a draft is alone"
        backend.run(replace(step, decode=()))  # the copies
        return backend.run_tokens(row.slot, (row.token, *row.draft), row.position), None
    chunk = step.prefill
    if chunk is None or not chunk.is_scored:
        return backend.run(step), None
    rows = backend.run(replace(step, prefill=None)).copy()  # valid until the backend runs again
    scores = backend.run_tokens(chunk.slot, chunk.tokens, chunk.start, is_pinned=chunk.is_pinned)
    return (np.concatenate([rows, scores[-1:]]) if chunk.is_last else rows), scores
