"""Requests sent to a server by a plan: open loop at a rate, closed loop at a concurrency."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from edgellama.benchmark.arrivals import Arrivals
from edgellama.benchmark.stream import StreamTimes
from edgellama.benchmark.workload import Job
from edgellama.grpc_service.aio_client import AsyncClient
from edgellama.grpc_service.client_errors import ClientError
from edgellama.runtime.event import Timing

Progress = Callable[[int, int], None]  # done, of how many
T = TypeVar("T")
# The reason of an answer that ended in order and is not as long as it was asked to be.
WRONG_LENGTH = "WRONG_LENGTH"
_LEAD_SECONDS = 0.01  # from making the tasks of an open loop to its time 0


@dataclass(frozen=True)
class Sent:
    """One request: its times since the *scheduled* send, and how much later it was really sent.

    `error` is the reason why it failed, None where the answer is complete; `timing` the server's
    own account of it, None where none came.
    """

    times: StreamTimes
    lag: float
    error: str | None = None
    timing: Timing | None = None

    @property
    def seconds(self) -> float:
        """Seconds from the scheduled send to the end."""
        assert self.times.ended is not None, "every request that was sent has an end"
        return self.times.ended - self.times.sent


@dataclass(frozen=True)
class Load:
    """All requests of one point; `seconds` from its begin to the end of the last request.

    `cpu_seconds` is the processor time that this process, the driver, took for it.
    """

    sent: tuple[Sent, ...]
    seconds: float
    cpu_seconds: float


async def send(client: AsyncClient, job: Job, *, scheduled: float, timeout: float) -> Sent:
    """Send one greedy request and read it to its end; `scheduled` on time.perf_counter's clock."""
    times = StreamTimes(sent=scheduled)
    lag = time.perf_counter() - scheduled
    error = timing = None
    try:
        async with client.stream(
            job.prompt_ids,
            timeout=timeout,
            temperature=0.0,
            max_new_tokens=job.output_tokens,
            ignore_eos=True,
        ) as stream:
            async for delta in stream:
                times.arrive(time.perf_counter(), len(delta.token_ids))
            timing = stream.timing
    except ClientError as failure:
        error = failure.reason or type(failure).__name__
    times.ended = time.perf_counter()
    if error is None and times.tokens != job.output_tokens:
        error = WRONG_LENGTH
    return Sent(times, lag, error, timing)


async def open_loop(
    client: AsyncClient,
    jobs: Iterator[Job],
    arrivals: Arrivals,
    *,
    timeout: float,
    progress: Progress,
) -> Load:
    """Send a job at each arrival, whether or not the ones before have ended.

    Each is timed from its scheduled send, so a server that stands still is charged for the requests
    that it kept from being sent on time. Those that still run after `arrivals.seconds` are awaited;
    `timeout` bounds each.
    """
    plan = arrivals.times()
    given = list(islice(jobs, len(plan)))  # drawn before the clock runs
    begin, cpu = time.perf_counter() + _LEAD_SECONDS, time.process_time()
    done = 0

    async def one(at: float, job: Job) -> Sent:
        nonlocal done
        await asyncio.sleep(begin + at - time.perf_counter())
        sent = await send(client, job, scheduled=begin + at, timeout=timeout)
        done += 1
        progress(done, len(plan))
        return sent

    sent = await _all(one(at, job) for at, job in zip(plan, given, strict=True))
    seconds = max(time.perf_counter() - begin, arrivals.seconds)
    return Load(tuple(sent), seconds, time.process_time() - cpu)


async def closed_loop(
    client: AsyncClient,
    jobs: Iterator[Job],
    *,
    concurrency: int,
    seconds: float,
    timeout: float,
    progress: Progress,
) -> Load:
    """Keep `concurrency` requests running: each is followed by the next until `seconds` are over.

    This shows the speed at a concurrency, not the behaviour at a rate: a slow server is sent less.
    """
    begin, cpu = time.perf_counter(), time.process_time()
    end = begin + seconds

    async def worker() -> list[Sent]:
        mine = []
        while (now := time.perf_counter()) < end:
            mine.append(await send(client, next(jobs), scheduled=now, timeout=timeout))
            progress(min(round(time.perf_counter() - begin), round(seconds)), round(seconds))
        return mine

    lists = await _all(worker() for _ in range(concurrency))
    sent = tuple(sent for mine in lists for sent in mine)
    return Load(sent, time.perf_counter() - begin, time.process_time() - cpu)


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all at once; when one raises or this is cancelled, none goes on alone."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
