"""What a long prompt does to the streams that run beside it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

from edgellama.benchmark.load import send
from edgellama.benchmark.long_prompt import (
    ALONE_TOKENS,
    STREAM_PROMPT,
    lacking_room,
    long_prompt,
)
from edgellama.benchmark.percentiles import percentiles_ms
from edgellama.benchmark.stream import StreamTimes, gaps_between
from edgellama.benchmark.workload import Job
from edgellama.grpc_service.aio_client import AsyncClient

Report = Callable[[str, int, int], None]

_LONGEST = 8192  # tokens of the long prompt, where a slot has room


class InterferenceError(RuntimeError):
    """A request of this measurement failed, so that nothing was measured."""


async def measure_interference(
    client: AsyncClient, *, seconds: float, timeout: float, seed: int, report: Report
) -> dict[str, Any] | None:
    """Measure the gaps of running streams alone, and while a prompt that fills a slot is read.

    Rounds are repeated for `seconds`, at least one. None where the server cannot do it: one slot
    only, or too short ones. Raises ClientError, InterferenceError.
    """
    info = await client.model_info()
    limits = info.limits
    if lacking_room(limits.slots, limits.capacity) is not None:
        return None
    plan = long_prompt(limits.slots, limits.capacity, _LONGEST)
    draw = random.Random(f"{seed} interference")

    def job(prompt: int, output: int) -> Job:
        return Job(tuple(draw.choices(range(info.vocab_size), k=prompt)), output)

    alone: list[float] = []
    beside: list[float] = []
    begin, rounds = time.perf_counter(), 0
    while not rounds or time.perf_counter() - begin < seconds:
        output = limits.capacity - STREAM_PROMPT
        running = [job(STREAM_PROMPT, output) for _ in range(plan.streams)]
        before, during = await _round(client, running, job(plan.tokens, 1), timeout)
        alone += before
        beside += during
        rounds += 1
        passed = min(round(time.perf_counter() - begin), round(seconds))
        report("long prompt beside streams", passed, round(seconds))
    return {
        "streams": plan.streams,
        "rounds": rounds,
        "prompt_tokens": plan.tokens,
        "itl_ms_alone": percentiles_ms(alone),
        "itl_ms_with_long_prompt": percentiles_ms(beside),
    }


async def _round(
    client: AsyncClient, running: list[Job], long: Job, timeout: float
) -> tuple[list[float], list[float]]:
    """Return the gaps in seconds before the long prompt, and until its first token."""
    steady = asyncio.Event()
    times: list[StreamTimes] = []

    async def read(job: Job) -> None:
        mine = StreamTimes(sent=time.perf_counter())
        times.append(mine)
        async with client.stream(
            job.prompt_ids,
            timeout=timeout,
            temperature=0.0,
            max_new_tokens=job.output_tokens,
            ignore_eos=True,
        ) as stream:
            async for delta in stream:
                mine.arrive(time.perf_counter(), len(delta.token_ids))
                if len(times) == len(running) and min(t.tokens for t in times) > ALONE_TOKENS:
                    steady.set()

    tasks = [asyncio.ensure_future(read(job)) for job in running]
    waiting = asyncio.ensure_future(steady.wait())
    try:
        await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()  # raises what ended it
        if not steady.is_set():
            raise InterferenceError("a stream ended before the others ran; nothing was measured")
        sent = await send(client, long, scheduled=time.perf_counter(), timeout=timeout)
    finally:
        waiting.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(waiting, *tasks, return_exceptions=True)
    if sent.error is not None:
        raise InterferenceError(
            f"the prompt of {len(long.prompt_ids)} tokens beside {len(running)} streams ended with "
            f"{sent.error}; look at the server's log"
        )
    all_run = max(one.arrivals[0][0] for one in times)
    entered, first = sent.times.sent, sent.times.arrivals[0][0]
    return gaps_between(times, all_run, entered), gaps_between(times, entered, first)
