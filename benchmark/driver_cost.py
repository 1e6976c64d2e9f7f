"""What the driver itself and gRPC take, measured on an engine that takes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from statistics import median
from typing import Any

from edgellama.benchmark.load import Load, Sent, closed_loop
from edgellama.benchmark.percentiles import percentiles_ms
from edgellama.benchmark.series import series
from edgellama.benchmark.server_process import echo_command, server_process
from edgellama.benchmark.workload import Job
from edgellama.grpc_service.aio_client import AsyncClient

Report = Callable[[str, int, int], None]

_PROMPT, _OUTPUT = 32, 64  # tokens
_SLOTS = 16
_ROUNDS = 5


class DriverCostError(RuntimeError):
    """A request to the echo engine failed, so that nothing was measured."""


async def measure_driver(
    figures: Sequence[Mapping[str, Any]], *, seconds: float, timeout: float, report: Report
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Drive the echo engine, in a process of its own; returns the parts `echo` and `driver`.

    `figures` are the rows of the real server; the echo engine is paced at the smallest TPOT of
    theirs. `us_per_token` is how far the TPOT that the driver reports is from that on the engine's
    own clock: the error that the wire and the driver bring in. `cpu_us_per_token` is the processor
    time of this process. `echo` also has the engine without any time a step: the most tokens/s that
    gRPC and the driver carry. `seconds` are spent on each of the two. Raises DriverCostError.
    """
    smallest = smallest_ms(figures)
    paced = await _drive(smallest, 1, seconds, timeout, report)
    flood = await _drive(0.0, _SLOTS, seconds, timeout, report)
    cost = series([tpot_error(load) * 1e6 for load in paced])
    echo = {
        "step_ms": smallest,
        "ttft_ms": percentiles_ms([sent.times.ttft for load in paced for sent in load.sent]),
        "tpot_ms": percentiles_ms([_tpot(sent) for load in paced for sent in load.sent]),
        "us_per_token": series([load.seconds * 1e6 / tokens(load) for load in flood]),
        "tokens_per_s": series([tokens(load) / load.seconds for load in flood]),
        "streams": _SLOTS,
    }
    driver = {
        "us_per_token": cost,
        "cpu_us_per_token": series([load.cpu_seconds * 1e6 / tokens(load) for load in paced]),
        "smallest_ms": smallest,
        "share_of_smallest": round(cost["median"] / (smallest * 1e3), 4),
    }
    return echo, driver


def smallest_ms(figures: Sequence[Mapping[str, Any]]) -> float:
    """Return the smallest median TPOT of the rows in milliseconds.

    A row whose answers arrived at once, as those of a quick engine may at a busy client, has none.
    Raises DriverCostError where no row has one.
    """
    medians = [row["tpot_ms"]["p50"] for row in figures if row["tpot_ms"]["n"]]
    smallest = float(min((each for each in medians if each > 0), default=0.0))
    if smallest <= 0:
        raise DriverCostError(
            "no row has a time per token: the answers have one token, or arrived at once; ask for "
            "answers of more tokens"
        )
    return smallest


def tpot_error(load: Load) -> float:
    """Return the median distance in seconds of the driver's TPOT from the engine's own."""
    found = []
    for sent in load.sent:
        assert sent.timing is not None, "a complete answer has the server's times"
        engine = (sent.timing.total - sent.timing.first_token) / (sent.times.tokens - 1)
        found.append(abs(_tpot(sent) - engine))
    return median(found)


def tokens(load: Load) -> int:
    """Return the tokens that arrived."""
    return sum(sent.times.tokens for sent in load.sent)


def _tpot(sent: Sent) -> float:
    assert sent.times.tpot is not None, "an answer of many tokens"
    return sent.times.tpot


async def _drive(
    step_ms: float, streams: int, seconds: float, timeout: float, report: Report
) -> list[Load]:
    """Return the loads of all rounds."""
    name = "echo engine" if step_ms else "echo engine, no step time"
    command = echo_command(step_ms=step_ms, slots=_SLOTS, capacity=_PROMPT + _OUTPUT)
    rounds = []
    with server_process(command) as target:
        async with AsyncClient(target) as client:
            for number in range(_ROUNDS + 1):
                load = await closed_loop(
                    client,
                    _jobs(),
                    concurrency=streams,
                    seconds=seconds / _ROUNDS,
                    timeout=timeout,
                    progress=lambda done, total: None,
                )
                rounds.append(load)
                failed = {sent.error for sent in load.sent} - {None}
                if failed:
                    raise DriverCostError(f"requests to the echo engine failed: {failed}")
                report(name, number + 1, _ROUNDS + 1)
    return rounds[1:]  # the first opens the connection


def _jobs() -> Iterator[Job]:
    return repeat(Job(tuple(range(_PROMPT)), _OUTPUT))
