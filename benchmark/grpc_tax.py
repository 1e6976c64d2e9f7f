"""What gRPC costs: the same requests in this process and over the loopback, round by round."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from edgellama.benchmark.engine_stream import EngineStream, fixed_length
from edgellama.benchmark.latency_grid import MeasurementError
from edgellama.benchmark.load import send
from edgellama.benchmark.percentiles import percentiles_ms
from edgellama.benchmark.series import series
from edgellama.benchmark.stream import StreamTimes
from edgellama.benchmark.workload import Job
from edgellama.grpc_service.aio_client import AsyncClient
from edgellama.runtime.engine import Engine

Report = Callable[[str, int, int], None]


class TaxError(RuntimeError):
    """A request of this measurement failed, or the two sides are not the same engine."""


@dataclass(frozen=True)
class TaxPlan:
    """`rounds` on each side, alternating; `requests` one after another in each."""

    rounds: int = 5
    requests: int = 2
    prompt_tokens: int = 32
    output_tokens: int = 32

    def __post_init__(self) -> None:
        for name, least in (
            ("rounds", 1),
            ("requests", 1),
            ("prompt_tokens", 1),
            ("output_tokens", 2),
        ):
            if getattr(self, name) < least:
                raise TaxError(f"{name} is {getattr(self, name)}; it must be >= {least}")


async def measure_tax(
    client: AsyncClient, engine: Engine, plan: TaxPlan, *, timeout: float, seed: int, report: Report
) -> dict[str, Any]:
    """Send the same greedy requests to both sides, one at a time; one round before is not counted.

    `ttft_ms` and `us_per_token` are the differences of the medians of a round, over the wire less
    in process: time to first token, and the whole time divided by the tokens. (TPOT cannot show it:
    what delays the first token makes those after it look fast.) Raises TaxError.
    """
    info = await client.model_info()
    if info.fingerprint != engine.manifest.fingerprint:
        raise TaxError(
            f"the server runs engine {info.fingerprint[:12]}, the engine in this process is "
            f"{engine.manifest.fingerprint[:12]}; give the directory that the server serves"
        )
    output = min(plan.output_tokens, engine.capacity // 2)
    prompt = min(plan.prompt_tokens, engine.capacity - output)
    draw = random.Random(f"{seed} tax")
    here: list[list[StreamTimes]] = []
    wire: list[list[StreamTimes]] = []
    for number in range(plan.rounds + 1):
        ids = [tuple(draw.choices(range(info.vocab_size), k=prompt)) for _ in range(plan.requests)]
        jobs = [Job(each, output) for each in ids]
        # No call runs while this blocks the event loop.
        here.append([in_process(engine, job) for job in jobs])
        wire.append([await _over_wire(client, job, timeout) for job in jobs])
        report("gRPC against in process", number + 1, plan.rounds + 1)
    pairs = list(zip(here[1:], wire[1:], strict=True))
    return {
        "rounds": plan.rounds,
        "requests": plan.requests,
        "prompt_tokens": prompt,
        "output_tokens": output,
        "in_process": _times(here[1:]),
        "grpc": _times(wire[1:]),
        "ttft_ms": series([(_ttft(there) - _ttft(mine)) * 1e3 for mine, there in pairs]),
        "us_per_token": series([(_each(there) - _each(mine)) * 1e6 for mine, there in pairs]),
    }


def in_process(engine: Engine, job: Job) -> StreamTimes:
    """Run one request on an engine of this process; raises TaxError unless it is complete."""
    stream = EngineStream(engine, fixed_length(job.prompt_ids, job.output_tokens))
    try:
        stream.complete()
    except MeasurementError as error:
        raise TaxError(f"in this process {error}") from error
    return stream.times


async def _over_wire(client: AsyncClient, job: Job, timeout: float) -> StreamTimes:
    sent = await send(client, job, scheduled=time.perf_counter(), timeout=timeout)
    if sent.error is not None:
        raise TaxError(f"a request ended with {sent.error}; look at the server's log")
    return sent.times


def _times(rounds: Sequence[Sequence[StreamTimes]]) -> dict[str, Any]:
    streams = [times for each in rounds for times in each]
    return {
        "ttft_ms": percentiles_ms([times.ttft for times in streams]),
        "tpot_ms": percentiles_ms([t.tpot for t in streams if t.tpot is not None]),
        "e2el_ms": percentiles_ms([_whole(times) for times in streams]),
    }


def _ttft(streams: Sequence[StreamTimes]) -> float:
    return median(times.ttft for times in streams)


def _each(streams: Sequence[StreamTimes]) -> float:
    return median(_whole(times) / times.tokens for times in streams)


def _whole(times: StreamTimes) -> float:
    assert times.ended is not None, "the request has ended"
    return times.ended - times.sent
