"""The driver against a real server on a free port, over an engine without arithmetic."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import accumulate, repeat
from typing import Any

import pytest

from edgellama.benchmark.arrivals import Arrivals
from edgellama.benchmark.driver_cost import tpot_error
from edgellama.benchmark.echo_engine import EchoEngine, as_engine
from edgellama.benchmark.interference import measure_interference
from edgellama.benchmark.lengths import lengths_by_name
from edgellama.benchmark.load import Load, closed_loop, open_loop
from edgellama.benchmark.load_row import load_row
from edgellama.benchmark.rate_sweep import Sweep, SweepError, SweepPlan, knee
from edgellama.benchmark.workload import Job, Workload
from edgellama.grpc_service.aio_client import AsyncClient
from edgellama.grpc_service.server import Server
from edgellama.profiles.profile import Slo
from edgellama.runtime.event import Event
from edgellama.runtime.request import Request

STALL = 0.6  # seconds


class StallingEngine(EchoEngine):
    """Stands still once, when the fifth request is there."""

    stalled = False

    def step(self) -> None:
        if not self.stalled and self.submitted >= 5:
            self.stalled = True
            time.sleep(STALL)
        super().step()

    submitted = 0

    def submit(self, request: Request, listener: Callable[[Event], None]) -> str:
        self.submitted += 1
        return super().submit(request, listener)


class ShortEngine(EchoEngine):
    """Ends every answer one token early, and in order."""

    def submit(self, request: Request, listener: Callable[[Event], None]) -> str:
        assert request.stop.max_new_tokens is not None
        stop = replace(request.stop, max_new_tokens=request.stop.max_new_tokens - 1)
        return super().submit(replace(request, stop=stop), listener)


class ReadingEngine(EchoEngine):
    """Needs a tenth of a millisecond for each token of a new prompt, and everybody waits."""

    unread = 0

    def submit(self, request: Request, listener: Callable[[Event], None]) -> str:
        self.unread += len(request.prompt_ids)
        return super().submit(request, listener)

    def step(self) -> None:
        tokens, self.unread = self.unread, 0
        time.sleep(tokens * 1e-4)
        super().step()


@asynccontextmanager
async def served(engine: EchoEngine) -> AsyncIterator[AsyncClient]:
    try:
        async with (
            Server(as_engine(engine), port=0) as server,
            AsyncClient(server.address) as client,
        ):
            yield client
    finally:
        engine.close()


def ignore(*_: object) -> None:
    pass


async def offered(client: AsyncClient, job: Job, rate: float, seconds: float, **more: Any) -> Load:
    arrivals = Arrivals(rate, seconds, seed=1)
    return await open_loop(
        client, repeat(job), arrivals, **{"timeout": 30.0, **more}, progress=ignore
    )


async def closed(client: AsyncClient, job: Job, concurrency: int, seconds: float) -> Load:
    return await closed_loop(
        client,
        repeat(job),
        concurrency=concurrency,
        seconds=seconds,
        timeout=30.0,
        progress=ignore,
    )


def most_running(load: Load) -> int:
    """Requests between their send and their end at one time, at most."""
    events = [(sent.times.sent, 1) for sent in load.sent]
    events += [(sent.times.sent + sent.seconds, -1) for sent in load.sent]
    return max(accumulate(change for _, change in sorted(events)))


@pytest.mark.parametrize("step", [0.0, 0.001])
async def test_tokens_are_counted_exactly(step: float) -> None:
    job = Job((1, 2, 3), 37)
    async with served(EchoEngine(step_seconds=step)) as client:
        load = await offered(client, job, 60.0, 0.5)
    row = load_row(load, None)
    assert row["requests"] == len(Arrivals(60.0, 0.5, seed=1).times()) == row["completed"]
    assert [sent.times.tokens for sent in load.sent] == [37] * row["requests"]
    assert row["errors"] == {}
    assert row["seconds"] >= 0.5
    assert row["output_tokens_per_s"] == pytest.approx(37 * row["requests"] / load.seconds, abs=0.1)


async def test_requests_go_out_as_planned_while_others_run() -> None:
    progress: list[tuple[int, int]] = []
    async with served(EchoEngine(step_seconds=0.02)) as client:
        arrivals = Arrivals(40.0, 0.5, seed=2)
        load = await open_loop(
            client,
            repeat(Job((1,), 20)),  # 0.4 s each: most of them run at the same time
            arrivals,
            timeout=30.0,
            progress=lambda done, total: progress.append((done, total)),
        )
    plan = arrivals.times()
    since = [sent.times.sent - load.sent[0].times.sent for sent in load.sent]
    assert since == pytest.approx([at - plan[0] for at in plan], abs=1e-6)
    assert most_running(load) >= 5, "none waits for the ones before"
    assert progress[-1] == (len(plan), len(plan))


async def test_a_closed_loop_keeps_its_number_running() -> None:
    async with served(EchoEngine(step_seconds=0.002)) as client:
        load = await closed(client, Job((1,), 10), 3, 0.3)
    assert most_running(load) == 3
    assert len(load.sent) > 3, "each is followed by another"
    assert all(sent.error is None for sent in load.sent)


async def test_a_refused_request_counts_under_its_reason() -> None:
    async with served(EchoEngine(step_seconds=0.02, slots=1, max_queue=1)) as client:
        row = load_row(await offered(client, Job((1,), 10), 100.0, 0.4), Slo(1e4, 1e4, "test"))
    assert set(row["errors"]) == {"QUEUE_FULL"}
    assert row["completed"] >= 1
    assert row["completed"] + row["errors"]["QUEUE_FULL"] == row["requests"]
    assert row["goodput_fraction"] == round(row["completed"] / row["requests"], 4)


async def test_other_reasons() -> None:
    async with served(EchoEngine(step_seconds=0.05, capacity=64)) as client:
        long = await offered(client, Job((1,) * 60, 10), 20.0, 0.2)
        late = await offered(client, Job((1,), 20), 20.0, 0.2, timeout=0.3)
    assert set(load_row(long, None)["errors"]) == {"INVALID_REQUEST"}
    assert set(load_row(late, None)["errors"]) == {"DeadlineExceeded"}
    assert all(sent.times.tokens > 0 for sent in late.sent), "what came before is kept"
    async with AsyncClient("127.0.0.1:1") as client:
        gone = await offered(client, Job((1,), 2), 20.0, 0.2)
    assert set(load_row(gone, None)["errors"]) == {"Unavailable"}


async def test_a_short_answer_is_an_error() -> None:
    async with served(ShortEngine(step_seconds=0.001)) as client:
        row = load_row(await offered(client, Job((1,), 5), 50.0, 0.3), None)
    assert row["errors"] == {"WRONG_LENGTH": row["requests"]} and row["completed"] == 0


async def test_a_slow_server_has_no_goodput_and_no_knee() -> None:
    slo = Slo(ttft_ms=1e4, itl_ms=5.0, source="test")
    async with served(EchoEngine(step_seconds=0.03, slots=2, capacity=64)) as client:
        plan = SweepPlan(seconds=0.3, fractions=(0.5,), timeout=30.0)
        sweep = Sweep(client, Workload(lengths_by_name("8/6"), 256, 0), plan, slo, ignore)
        rows, saturation = await sweep.closed(2)
        opened = await sweep.opened(saturation)
        over = await sweep.overload(saturation, opened)
    assert [row["concurrency"] for row in rows] == [1, 2]
    for row in (*rows, *opened, over):
        assert row["completed"] == row["requests"]
        assert row["goodput_per_s"] == 0.0
    assert knee(opened) is None and over["goodput_of_knee"] is None
    assert over["offered_per_s"] == pytest.approx(2 * saturation, abs=1e-3)


async def test_a_server_that_completes_nothing_is_an_error() -> None:
    async with served(EchoEngine(step_seconds=0.001, capacity=16)) as client:
        workload = Workload(lengths_by_name("64/6"), 256, 0)  # not clipped: all are refused
        sweep = Sweep(client, workload, SweepPlan(seconds=0.1), None, ignore)
        with pytest.raises(SweepError, match="INVALID_REQUEST"):
            await sweep.closed(1)


async def test_a_stall_of_the_server_shows_in_later_requests() -> None:
    """No coordinated omission: what comes during the stall is sent, and charged to the server."""
    async with served(StallingEngine(step_seconds=0.001)) as client:
        load = await offered(client, Job((1,), 3), 50.0, 1.2)
    waited = [sent.times.ttft for sent in load.sent if sent.times.ttft > STALL / 3]
    # 50/s for the first two thirds of the stall: about 20 of them.
    assert len(waited) > 5
    assert load_row(load, None)["ttft_ms"]["p99"] > STALL / 3 * 1e3


async def test_a_stall_of_the_driver_is_not_hidden() -> None:
    """Times are since the scheduled send, also when the driver itself could not send."""
    async with served(EchoEngine(step_seconds=0.001)) as client:
        asyncio.get_running_loop().call_later(0.2, time.sleep, STALL)
        load = await offered(client, Job((1,), 3), 50.0, 1.0)
    late = [sent for sent in load.sent if sent.lag > STALL / 3]
    assert len(late) > 5
    assert all(sent.times.ttft > sent.lag for sent in late)
    assert load_row(load, None)["send_lag_ms"]["p99"] > STALL / 3 * 1e3


async def test_a_long_prompt_holds_up_the_streams() -> None:
    async with served(ReadingEngine(step_seconds=0.01, slots=4, capacity=2048)) as client:
        found = await measure_interference(client, seconds=0.0, timeout=30.0, seed=1, report=ignore)
    assert found is not None
    assert (found["streams"], found["rounds"], found["prompt_tokens"]) == (3, 1, 2047)
    # 2,047 tokens stop everybody for 205 ms. Steps of 10 ms leave a slow reader nothing to catch up
    # with meanwhile, which would hide that.
    assert found["itl_ms_with_long_prompt"]["p99"] > 50.0
    assert found["itl_ms_alone"]["p50"] < found["itl_ms_with_long_prompt"]["p99"]
    assert found["itl_ms_alone"]["n"] >= 3 * 20


@pytest.mark.parametrize("room", [{"slots": 1}, {"capacity": 100}])
async def test_too_little_room_for_a_long_prompt(room: dict[str, int]) -> None:
    async with served(EchoEngine(step_seconds=0.001, **room)) as client:
        assert (
            await measure_interference(client, seconds=0.0, timeout=9.0, seed=1, report=ignore)
            is None
        )


async def test_the_servers_own_times_come_with_the_answer() -> None:
    async with served(EchoEngine(step_seconds=0.01)) as client:
        load = await closed(client, Job((1,), 10), 1, 0.1)
    for sent in load.sent:
        assert sent.timing is not None
        assert sent.timing.total - sent.timing.first_token >= 9 * 0.01
        assert sent.timing.total < sent.seconds
    assert 0 <= tpot_error(load) < 0.01
