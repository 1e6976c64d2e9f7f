"""A server under load, whole: sweep, overload, interference, and what the measuring costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edgellama.benchmark.driver_cost import measure_driver
from edgellama.benchmark.environment import environment
from edgellama.benchmark.grpc_tax import TaxPlan, measure_tax
from edgellama.benchmark.interference import measure_interference
from edgellama.benchmark.lengths import Lengths
from edgellama.benchmark.load import send
from edgellama.benchmark.precise_loop import run_precisely
from edgellama.benchmark.rate_sweep import Sweep, SweepError, SweepPlan, knee
from edgellama.benchmark.server_process import serve_command, server_process
from edgellama.benchmark.workload import Job, Workload
from edgellama.grpc_service.aio_client import AsyncClient
from edgellama.profiles.profile import Slo
from edgellama.runtime.engine import Engine

Report = Callable[[str, int, int], None]


def measure_serving(
    *,
    target: str | None,
    engine: Path | None,
    lengths: Lengths,
    slo: Slo | None,
    plan: SweepPlan,
    tax: TaxPlan,
    progress: Report,
) -> dict[str, Any]:
    """Return the document of kind "serve".

    `target` None serves `engine` from a process of its own while this measures. With an engine its
    cost over gRPC is measured against the same engine in this process; without one `in_process`,
    `grpc` and the two differences under `tax` are None. Without `slo` there is no goodput and no
    knee. Raises SweepError, ServerProcessError, ClientError and what the parts raise.
    """
    if target is None and engine is None:
        raise SweepError("target and engine are both missing; give a server, an engine, or both")
    with ExitStack() as stack:
        if target is None:
            assert engine is not None
            progress("start the server", 0, 0)
            target = stack.enter_context(server_process(serve_command(engine)))
        return run_precisely(_measure(target, engine, lengths, slo, plan, tax, progress))


async def _measure(
    target: str,
    engine: Path | None,
    lengths: Lengths,
    slo: Slo | None,
    plan: SweepPlan,
    tax: TaxPlan,
    progress: Report,
) -> dict[str, Any]:
    async with AsyncClient(target) as client:
        info = await client.model_info()
        slots = info.limits.slots
        fitting = lengths.within(info.limits.capacity)
        await _warm_up(client, slots, info.vocab_size, plan.timeout)
        workload = Workload(fitting, info.vocab_size, plan.seed)
        sweep = Sweep(client, workload, plan, slo, progress)
        closed, saturation = await sweep.closed(slots)
        opened = await sweep.opened(saturation)
        overload = await sweep.overload(saturation, opened)
        interference = await measure_interference(
            client, seconds=plan.seconds, timeout=plan.timeout, seed=plan.seed, report=progress
        )
        echo, driver = await measure_driver(
            [*closed, *opened], seconds=plan.seconds, timeout=plan.timeout, report=progress
        )
        taxed: dict[str, Any] = dict.fromkeys(("in_process", "grpc", "ttft_ms", "us_per_token"))
        if engine is not None:
            with Engine.load(engine) as local:
                taxed = await measure_tax(
                    client, local, tax, timeout=plan.timeout, seed=plan.seed, report=progress
                )
    return {
        "kind": "serve",
        "target": target,
        "model": info.model,
        "profile": info.profile,
        "slots": slots,
        "slo": None
        if slo is None
        else {"ttft_ms": slo.ttft_ms, "itl_ms": slo.itl_ms, "source": slo.source},
        "lengths": fitting.name,
        "workload": fitting.as_dict(),
        "seconds": plan.seconds,
        "requests": plan.requests,
        "seed": plan.seed,
        "closed": closed,
        "open": opened,
        "knee": knee(opened),
        "saturation_requests_per_s": round(saturation, 4),
        "overload": overload,
        "interference": interference,
        "tax": {**taxed, "echo": echo},
        "driver": driver,
        "environment": environment(),
    }


async def _warm_up(client: AsyncClient, slots: int, vocab_size: int, timeout: float) -> None:
    """Fill every slot once with a short request, uncounted: the connection and first steps cost."""
    job = Job(tuple(n % vocab_size for n in range(8)), 8)
    now = time.perf_counter()
    done = await asyncio.gather(
        *(send(client, job, scheduled=now, timeout=timeout) for _ in range(slots))
    )
    failed = {sent.error for sent in done} - {None}
    if failed:
        raise SweepError(
            f"requests of 8 tokens ended with {', '.join(sorted(map(str, failed)))} before the "
            "measurement; look at the server's log"
        )
