"""Log-probabilities out of logits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgellama.runtime.event import TokenLogprobs
from edgellama.runtime.largest import largest

Floats = npt.NDArray[np.float32]


def token_logprobs(raw: Floats, token: int, top: int) -> TokenLogprobs:
    """Return log-softmax entries of a raw row `[vocab]`: the token's and the `top` largest."""
    peak = float(raw.max())
    offset = peak + float(np.log(np.exp(raw - np.float32(peak)).sum(dtype=np.float64)))
    leaders = largest(raw, min(top, len(raw))) if top else ()
    return TokenLogprobs(
        float(raw[token]) - offset, tuple((int(i), float(raw[i]) - offset) for i in leaders)
    )
