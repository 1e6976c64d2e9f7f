"""Check `serving`: requests that share steps get what each gets alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edgellama.benchmark.check import Job
from edgellama.benchmark.first_difference import first_difference
from edgellama.benchmark.outcome import CheckFailed, CheckSkipped
from edgellama.optimize.verify import verification_prompts
from edgellama.runtime.completion import Collector, Completion
from edgellama.runtime.engine import Engine
from edgellama.runtime.request import Request, Sampling, Stop

REQUESTS, NEW_TOKENS = 4, 24
# Kernels of a batch and of one row sum in another order. Two tokens whose log-probabilities are
# closer than this may change places by it, and from there on the texts differ.
TIE_NATS = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.25}


def check_serving(job: Job) -> dict[str, Any]:
    """Load the engine as a server does, and ask it."""
    with Engine.load(job.engine.engine_folder(job.work)) as engine:
        return serve_together(engine)


def serve_together(engine: Engine) -> dict[str, Any]:
    """Send the prompts one by one, then all at once; raises CheckFailed where an answer changes."""
    manifest = engine.manifest
    limits = manifest.profile.limits
    count = min(REQUESTS, limits.slots, limits.max_queue)
    if count < 2:
        raise CheckSkipped("limits.slots or limits.max_queue is 1: no two requests share a step")
    prompts = verification_prompts(engine.codec, engine.capacity)[:count]
    requests = [_request(prompt, engine.capacity) for prompt in prompts]
    alone = [engine.generate(request) for request in requests]
    # Under another salt every prompt is computed once more.
    requests = [replace(request, cache_salt="together") for request in requests]
    before = engine.stats().steps
    together = _at_once(engine, requests)
    steps = engine.stats().steps - before
    tokens = sum(len(answer.token_ids) for answer in together)
    figures: dict[str, Any] = {"requests": len(requests), "tokens": tokens, "steps": steps}
    if steps >= tokens:
        raise CheckFailed(f"{tokens} tokens took {steps} steps: nothing was shared", figures)
    tie = TIE_NATS[manifest.profile.precision.compute]
    ties = [gap for a, b in zip(alone, together, strict=True) if (gap := parting(a, b)) is not None]
    figures |= {"same": len(requests) - len(ties), "ties": ties}
    if max(ties, default=0.0) > tie:
        raise CheckFailed(
            f"an answer in company parts from the same alone where its two best tokens are "
            f"{max(ties):.3g} nats apart; a tie is {tie} at most",
            figures,
        )
    return figures


def _request(prompt: Sequence[int], capacity: int) -> Request:
    room = min(NEW_TOKENS, capacity - len(prompt))
    stop = Stop(max_new_tokens=room, ignore_eos=True)
    return Request(tuple(prompt), Sampling(temperature=0.0), stop, top_logprobs=2)


def _at_once(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    collectors = [Collector() for _ in requests]
    for request, collector in zip(requests, collectors, strict=True):
        engine.submit(request, collector)
    return [collector.result() for collector in collectors]


def parting(alone: Completion, together: Completion) -> float | None:
    """Return the gap in nats between the two best tokens where the answers part; None where they
    are the same."""
    if alone.token_ids == together.token_ids:
        return None
    index = first_difference(alone.token_ids, together.token_ids)
    (_, best), (_, second) = alone.logprobs[index].top
    return best - second
