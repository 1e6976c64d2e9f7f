"""The log-probabilities of a prompt's own tokens, chunk by chunk."""

from __future__ import annotations

import numpy as np

from edgellama.runtime.backend import Logits
from edgellama.runtime.event import PromptLogprobs
from edgellama.runtime.logprobs import token_logprobs


class PromptScores:
    """What is known of one prompt's log-probabilities; each is given out once."""

    def __init__(self, prompt_ids: tuple[int, ...], top: int) -> None:
        self._prompt_ids = prompt_ids
        self._top = top
        self._end = 1  # those of `[1, end)` are given out; nothing is before the first token

    def take(self, logits: Logits, start: int) -> PromptLogprobs:
        """Return what the logits of the tokens from `start` on tell of the tokens behind them.

        A prompt that lost its slot comes again from its beginning: what was given out then is left
        out. Raises ValueError for NaN or infinity.
        """
        if not np.isfinite(logits).all():
            raise ValueError(f"logits of the prompt from token {start} on hold NaN or infinity")
        begin, end = self._end, min(start + 1 + len(logits), len(self._prompt_ids))
        entries = tuple(
            token_logprobs(logits[i - 1 - start], self._prompt_ids[i], self._top)
            for i in range(begin, end)
        )
        self._end = max(begin, end)
        return PromptLogprobs(begin, entries)
