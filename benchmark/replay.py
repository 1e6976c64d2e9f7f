"""The same texts through any backend in the same steps, so that two backends can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgellama.benchmark.outcome import CheckFailed
from edgellama.runtime.backend import Logits, ScoringBackend
from edgellama.runtime.step import DecodeRow, PrefillChunk, Step

PREFILL, DECODE, REUSE, FRESH = "prefill", "decode", "reuse", "fresh"


def replay(
    backend: ScoringBackend, texts: Sequence[Sequence[int]], chunk: int
) -> dict[str, Logits]:
    """Return float32 [n, vocab] logits of each part.

    `prefill`: the first half of every text, chunk by chunk, every position. `decode`: the second
    halves, a token of each text a step, ragged, the longest of them alone at the end. `reuse`: the
    last text's first half in slot 0, which another text has filled; `fresh` is the same half as it
    was in a slot of its own. Texts beyond the slots are left out.
    """
    texts = texts[: backend.slots]
    halves = [max(1, len(ids) // 2) for ids in texts]
    prefilled = [
        _prefill(backend, slot, ids[:half], chunk)
        for slot, (ids, half) in enumerate(zip(texts, halves, strict=True))
    ]
    decoded = _decode(backend, texts, halves)
    again = _prefill(backend, 0, texts[-1][: halves[-1]], chunk)
    # A step of serving on the reused slot: what lies behind its tokens must not be seen.
    row = DecodeRow(0, texts[-1][halves[-1]], halves[-1])
    lengths = (halves[-1], *[0] * (backend.slots - 1))
    after = np.array(backend.run(Step((row,), None, lengths)))
    return {
        PREFILL: np.concatenate(prefilled),
        DECODE: decoded,
        REUSE: again,
        FRESH: prefilled[-1],
        "after reuse": after,
    }


def _prefill(backend: ScoringBackend, slot: int, ids: Sequence[int], chunk: int) -> Logits:
    """Return the logits of every position; the last chunk also goes through a step of serving."""
    starts = range(0, len(ids), chunk)
    parts = [backend.run_tokens(slot, ids[start : start + chunk], start) for start in starts]
    last = starts[-1]
    lengths = [0] * backend.slots
    lengths[slot] = last
    step = Step((), PrefillChunk(slot, tuple(ids[last:]), last, True), tuple(lengths))
    return np.concatenate([*parts, backend.run(step)])


def _decode(
    backend: ScoringBackend, texts: Sequence[Sequence[int]], starts: Sequence[int]
) -> Logits:
    lengths = [*starts, *[0] * (backend.slots - len(texts))]
    parts = []
    while rows := tuple(
        DecodeRow(slot, ids[lengths[slot]], lengths[slot])
        for slot, ids in enumerate(texts)
        if lengths[slot] < len(ids)
    ):
        # A finished row stays idle behind its tokens, which a full slot has no room for.
        held = tuple(min(length, backend.capacity - 1) for length in lengths)
        parts.append(np.array(backend.run(Step(rows, None, held))))
        for row in rows:
            lengths[row.slot] += 1
    return np.concatenate(parts)


def largest_difference(one: Mapping[str, Logits], other: Mapping[str, Logits]) -> float:
    """Return the largest |difference| of a logit, as a share of the largest |logit|."""
    far = max(float(np.abs(one[part] - other[part]).max()) for part in one)
    return far / max(float(np.abs(logits).max()) for logits in one.values())


def require_finite(logits: Mapping[str, Logits]) -> None:
    """Raise CheckFailed for NaN and infinity."""
    for part, values in logits.items():
        wrong = int(np.count_nonzero(~np.isfinite(values)))
        if wrong:
            raise CheckFailed(f"{wrong} logits of {part} are NaN or infinite")


def differing_parts(one: Mapping[str, Logits], other: Mapping[str, Logits]) -> list[str]:
    """Return the parts that are not equal bit for bit."""
    return [part for part in one if not np.array_equal(one[part], other[part])]
