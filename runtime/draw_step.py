"""From the logits of a step to the tokens and texts of its rows."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from edgellama.runtime.backend import Logits
from edgellama.runtime.event import Delta, FinishReason
from edgellama.runtime.generation import Generation
from edgellama.runtime.sampling import Draw, Sampler

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drawn:
    """What was drawn for a row: `token`, and its delta; None where the request failed."""

    generation: Generation
    token: int
    delta: Delta | None


def draw_rows(sampler: Sampler, logits: Logits, rows: list[Generation]) -> list[Draw | None]:
    """Draw for all rows at once; None for a row that cannot be, which ends its request."""
    try:
        return list(sampler.sample(logits, [g.sampling for g in rows]))
    except ValueError:  # no state has changed: find the rows that it is about
        return [_draw_alone(sampler, logits[r : r + 1], g) for r, g in enumerate(rows)]


def accept(generation: Generation, draw: Draw | None) -> Drawn:
    """Give a row its token; a failure ends its request."""
    if draw is None or generation.reason is not None:  # its prompt could not be scored
        return Drawn(generation, 0 if draw is None else draw.token, None)
    try:
        return Drawn(generation, draw.token, generation.accept(draw))
    except Exception:
        _LOG.exception("request %s failed at token %d", generation.id, draw.token)
        generation.reason = FinishReason.ERROR
        return Drawn(generation, draw.token, None)


def follow_draft(
    sampler: Sampler, logits: Logits, generation: Generation, draft: tuple[int, ...]
) -> list[Drawn]:
    """Draw token by token for as long as the guesses are right; what is drawn is what counts.

    The logits behind a token are true when the model was fed the tokens before it: so every token
    has the distribution, and with a seed the value, that it would have without guesses. For a
    guess that is certain this is what rejection sampling comes to (Leviathan, Kalman, Matias, Fast
    Inference from Transformers via Speculative Decoding, ICML 2023, section 2.3): a guess of
    probability p is taken with p, and else one of the others is drawn by what they have.
    """
    drawn = []
    for r in range(len(draft) + 1):
        (draw,) = draw_rows(sampler, logits[r : r + 1], [generation])
        drawn.append(accept(generation, draw))
        if generation.reason is not None or draft[r : r + 1] != (drawn[-1].token,):
            break
    return drawn


def _draw_alone(sampler: Sampler, logits: Logits, generation: Generation) -> Draw | None:
    try:
        return sampler.sample(logits, [generation.sampling])[0]
    except ValueError:
        _LOG.exception("request %s: no token can be drawn", generation.id)
        generation.reason = FinishReason.ERROR
        return None
