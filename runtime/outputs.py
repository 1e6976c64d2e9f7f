"""The outputs of one request as generations: each its own sequence, stream and guide."""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import TYPE_CHECKING

from edgellama.runtime.generation import Generation, Listener, Sequences
from edgellama.runtime.request import Request
from edgellama.runtime.sampling import effective_seed
from edgellama.runtime.sequence import Sequence

if TYPE_CHECKING:
    from edgellama.runtime.guide_matcher import GuideMatcher


def make_outputs(
    request: Request,
    request_id: str,
    max_new_tokens: int,
    listener: Listener,
    guides: Items[GuideMatcher | None],
    bad_words: Sequences,
    *,
    greedy_form: str = "fastest",
) -> list[Generation]:
    """Return the generations of a request, the first of them the leader of the others.

    The first has the request's id and seed, the one at `index` the id `ID#index` and the seed
    `(seed + index) mod 2**64`; the sampler keeps the streams of neighbouring seeds apart. `guides`
    has one for each, `bad_words` the token sequences that none holds. With `greedy_form` "first"
    those of temperature 0 are pinned to that form of the weights, and find no prefix in the cache
    that the other may have computed.
    """
    salt, is_pinned = request.cache_salt, False
    if greedy_form == "first":
        is_pinned = request.sampling.temperature == 0
        salt = f"{'first' if is_pinned else 'fastest'}:{salt}"
    seed = effective_seed(request.sampling)
    outputs: list[Generation] = []
    for index in range(request.n):
        sequence = Sequence(
            f"{request_id}#{index}" if index else request_id,
            request.prompt_ids,
            max_new_tokens,
            salt=salt,
            priority=request.priority,
            tenant=request.tenant,
            leader=outputs[0].sequence if outputs else None,
            is_scored=request.prompt_logprobs is not None and index == 0,
            is_pinned=is_pinned,
        )
        generation = Generation(
            request,
            sequence,
            listener,
            index=index,
            seed=(seed + index) % 2**64,
            outputs=outputs,
            guide=guides[index],
            bad_words=bad_words,
        )
        outputs.append(generation)
    return outputs
