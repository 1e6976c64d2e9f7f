"""Draw the next token of every running request from one step's logits.

A row obeys its own request only, in the order of transformers' logits processors and vLLM's
sampler: logit bias, repetition penalty over prompt and output (CTRL, arXiv:1909.05858 section 4.1),
presence and frequency penalty over the output (OpenAI API reference), ban of stop ids until
`min_new_tokens`, ban of bad words, ban of what a guide does not allow, temperature, top-k, top-p
(nucleus, arXiv:1904.09751 section 3.1, renormalised after top-k), min-p (arXiv:2407.01082 section
3, a share of the largest probability), draw.

The draw inverts the cumulative distribution of the kept tokens in id order at one uniform number
that depends on (seed, position) alone, and every row is reduced by itself: neither neighbours nor
row order change a draw, bit for bit. Equal logits rank by id, lowest first.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgellama.runtime.bad_words import BadWords
from edgellama.runtime.draw import draw
from edgellama.runtime.event import TokenLogprobs
from edgellama.runtime.logprobs import token_logprobs
from edgellama.runtime.request import InvalidRequestError, Sampling
from edgellama.runtime.weights import Floats, Ids, Room

if TYPE_CHECKING:
    from edgellama.runtime.guide_matcher import GuideMatcher

_MASK = 2**64 - 1
_FLOAT_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Draw:
    """One drawn token; `logprobs` where the request asked for them."""

    token: int
    logprobs: TokenLogprobs | None


def effective_seed(sampling: Sampling) -> int:
    """Return the request's seed, or a fresh one of 64 bits."""
    return secrets.randbits(64) if sampling.seed is None else sampling.seed


def _mix(value: int) -> int:
    """Scramble 64 bits: the finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def uniform(seed: int, position: int) -> float:
    """Return the number in [0, 1) that belongs to one position of one seed, 53 bits fine."""
    golden = 0x9E3779B97F4A7C15
    # Mixing the seed first keeps the streams of neighbouring seeds apart.
    key = _mix((seed + golden) & _MASK)
    return float(_mix((key + (position + 1) * golden) & _MASK) >> 11) * 2.0**-53


class SamplingState:
    """What one request's draws depend on besides the logits; `position` counts its tokens."""

    def __init__(
        self,
        sampling: Sampling,
        prompt_ids: Sequence[int],
        seed: int,
        *,
        banned_until_min: tuple[int, ...],
        min_new_tokens: int,
        top_logprobs: int | None,
        bad_words: BadWords | None = None,
    ) -> None:
        self.sampling = sampling
        self.seed = seed
        self.min_new_tokens = min_new_tokens
        self.top_logprobs = top_logprobs
        self.position = 0
        self.bad_words = bad_words
        self.guide: GuideMatcher | None = None
        self.banned: Ids = np.array(sorted(set(banned_until_min)), np.int64)
        self.bias_ids: Ids = np.array(list(sampling.logit_bias.keys()), np.int64)
        self.bias = np.array(list(sampling.logit_bias.values()), np.float64)
        self.penalised = (
            sampling.repetition_penalty != 1.0
            or sampling.presence_penalty != 0.0
            or sampling.frequency_penalty != 0.0
        )
        # Tokens seen: prompt tokens with count 0, output tokens with theirs. Rows beyond `_used`
        # are spare room, so a token costs O(1) and the penalties O(distinct tokens).
        seen = np.unique(np.asarray(prompt_ids, np.int64)) if self.penalised else np.array([], int)
        self._used = len(seen)
        self._ids: Ids = np.concatenate([seen, np.zeros(64, np.int64)])
        self._counts: Ids = np.zeros(len(self._ids), np.int64)
        self._index = {int(token): row for row, token in enumerate(seen)}

    @property
    def bans(self) -> bool:
        """Whether stop ids cannot be drawn yet."""
        return self.position < self.min_new_tokens and self.banned.size > 0

    @property
    def is_plain(self) -> bool:
        """Whether the logits reach the temperature unchanged."""
        changed = self.penalised or self.bans or self.bias_ids.size or self.bad_words or self.guide
        return not changed

    @property
    def seen(self) -> tuple[Ids, Ids]:
        """Token ids of prompt and output, and how often each was generated."""
        return self._ids[: self._used], self._counts[: self._used]

    def record(self, token: int) -> None:
        """Count one drawn token."""
        self.position += 1
        if self.bad_words is not None:
            self.bad_words.record(token)
        if not self.penalised:
            return
        row = self._index.setdefault(token, self._used)
        if row == self._used:
            if row == len(self._ids):
                self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._ids[row] = token
            self._used += 1
        self._counts[row] += 1


class Sampler:
    """Applies the rules of each request to its row of the logits; one thread at a time uses it."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._room = Room(vocab_size)

    def check(
        self,
        sampling: Sampling,
        banned_until_min: Sequence[int] = (),
        bad_token_ids: Sequence[Sequence[int]] = (),
    ) -> None:
        """Refuse what no row of this vocabulary can obey; raises InvalidRequestError."""
        for token in sampling.logit_bias:
            if not 0 <= token < self.vocab_size:
                raise InvalidRequestError(
                    f"sampling.logit_bias[{token}]",
                    f"names token {token}; the vocabulary is [0, {self.vocab_size})",
                )
        single = [ids[0] for ids in bad_token_ids if len(ids) == 1]
        banned = {token for token in (*single, *banned_until_min) if 0 <= token < self.vocab_size}
        if len(banned) == self.vocab_size:
            field, text = "stop.min_new_tokens", "is a stop id"
            if single:
                field, text = "sampling.bad_token_ids", "would be banned"
            raise InvalidRequestError(
                field, f"cannot be kept: every token of the vocabulary {text}"
            )

    def sample(self, logits: Floats, states: Sequence[SamplingState]) -> list[Draw]:
        """Draw one token a row of float32 `[rows, vocab]` and advance the states.

        Raises ValueError, before any state changes, when a row holds NaN or infinity.
        """
        if logits.shape != (len(states), self.vocab_size) or logits.dtype != np.float32:
            raise ValueError(
                f"logits are {logits.dtype} {list(logits.shape)}; "
                f"expected float32 {[len(states), self.vocab_size]}"
            )
        if not states:
            return []
        best = logits.argmax(axis=1)  # the first of equals; a NaN counts as largest
        peaks = logits[np.arange(len(states)), best]
        bad = np.flatnonzero(~(np.isfinite(peaks) & np.isfinite(logits.min(axis=1))))
        if bad.size:
            raise ValueError(f"logits of row {bad[0]} hold NaN or infinity: the step failed")
        draws: list[Draw] = []
        for row, state in enumerate(states):
            raw = logits[row]
            if state.is_plain and state.sampling.temperature == 0.0:
                token = int(best[row])
            else:
                scores = raw if state.is_plain else _adjusted(raw, state)
                share = uniform(state.seed, state.position)
                token = draw(scores, state.sampling, share, self._room)
            top = state.top_logprobs
            draws.append(Draw(token, None if top is None else token_logprobs(raw, token, top)))
        for state, drawn in zip(states, draws, strict=True):
            state.record(drawn.token)
        return draws


def _adjusted(raw: Floats, state: SamplingState) -> Floats:
    """Return a copy of a row `[vocab]` after bias, penalties and ban; touches the named ids only.

    Results beyond float32 are clipped to its range, so only banned tokens are infinite.
    """
    scores = raw.copy()
    if state.bias_ids.size:
        biased = scores[state.bias_ids] + state.bias  # float64
        scores[state.bias_ids] = np.clip(biased, -_FLOAT_MAX, _FLOAT_MAX)
    if state.penalised:
        rules = state.sampling
        ids, counts = state.seen
        values = scores[ids].astype(np.float64)
        with np.errstate(over="ignore"):
            factor = np.where(values > 0, 1.0 / rules.repetition_penalty, rules.repetition_penalty)
            values *= factor
        values -= rules.presence_penalty * (counts > 0) + rules.frequency_penalty * counts
        scores[ids] = np.clip(values, -_FLOAT_MAX, _FLOAT_MAX)
    if state.bans:
        # A stop id beyond the vocabulary can never be drawn.
        scores[state.banned[state.banned < len(scores)]] = -np.inf
    if state.bad_words is not None:
        scores[state.bad_words.banned(len(scores))] = -np.inf
    if state.guide is not None:
        scores[~state.guide.allowed(len(scores))] = -np.inf
    return scores
