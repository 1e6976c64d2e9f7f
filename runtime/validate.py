"""Refuse a request that the engine could not serve whole, before it waits."""

from __future__ import annotations

from edgellama.runtime.request import InvalidRequestError, Request


def check_request(request: Request, *, vocab_size: int, capacity: int, slots: int) -> int:
    """Return the effective `max_new_tokens`; raises InvalidRequestError with field and limit.

    Prompt and output together are at most `capacity` tokens, so nothing that was admitted is ever
    cut short of what it asked for.
    """
    if request.n > slots:
        raise InvalidRequestError(
            "n",
            f"is {request.n}; the engine has {slots} slots, one for each output; ask for at most "
            f"{slots}",
        )
    _check_ids("prompt", request.prompt_ids, vocab_size)
    _check_ids("stop.token_ids", request.stop.token_ids, vocab_size)
    for ids in request.sampling.bad_token_ids:
        _check_ids("sampling.bad_token_ids", ids, vocab_size)
    prompt = len(request.prompt_ids)
    room = capacity - prompt
    if room < 1:
        raise InvalidRequestError(
            "prompt",
            f"has {prompt} tokens; at most {capacity - 1} fit a slot of {capacity} with one new "
            "token; shorten the prompt or build the engine with a larger limits.capacity",
        )
    wanted = request.stop.max_new_tokens
    if wanted is not None and wanted > room:
        raise InvalidRequestError(
            "stop.max_new_tokens",
            f"is {wanted}; a prompt of {prompt} tokens leaves {room} in a slot of {capacity}; "
            f"ask for at most {room} or leave it unset",
        )
    if request.stop.min_new_tokens > room:
        raise InvalidRequestError(
            "stop.min_new_tokens",
            f"is {request.stop.min_new_tokens}; a prompt of {prompt} tokens leaves {room} in a "
            f"slot of {capacity}; ask for at most {room}",
        )
    return room if wanted is None else wanted


def _check_ids(field: str, ids: tuple[int, ...], vocab_size: int) -> None:
    if ids and (min(ids) < 0 or max(ids) >= vocab_size):
        bad = next(token for token in ids if not 0 <= token < vocab_size)
        raise InvalidRequestError(field, f"has token id {bad}; the vocabulary is [0, {vocab_size})")
