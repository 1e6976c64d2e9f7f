"""How much a server takes: its saturation, the knee of its goodput, and what twice as much does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from edgellama.benchmark.arrivals import Arrivals
from edgellama.benchmark.load import Load, Progress, closed_loop, open_loop
from edgellama.benchmark.load_row import load_row
from edgellama.benchmark.workload import Workload
from edgellama.grpc_service.aio_client import AsyncClient
from edgellama.profiles.profile import Slo

Report = Callable[[str, int, int], None]

KNEE_FRACTION = 0.95  # of the requests meet both bounds at the knee
OVERLOAD = 2.0  # times the saturation
BURSTINESS, BURSTY_FRACTION = 0.25, 0.75  # the shape of the bursts, and their part of saturation


class SweepError(ValueError):
    """A plan that cannot be run, or a server that completed nothing."""


@dataclass(frozen=True)
class SweepPlan:
    """`seconds` a point, the rates as `fractions` of the saturation, whether bursts are added.

    A point at a rate lasts longer where it must until `requests` are due on average. A request may
    take `timeout` seconds. `seed` fixes arrivals, lengths and tokens.
    """

    seconds: float = 2.0
    fractions: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9, 1.0, 1.2)
    bursty: bool = False
    timeout: float = 120.0
    seed: int = 0
    requests: int = 4

    def __post_init__(self) -> None:
        for name, value in (
            ("seconds", self.seconds),
            ("timeout", self.timeout),
            *(("fractions", fraction) for fraction in self.fractions),
        ):
            if not 0 < value < math.inf:
                raise SweepError(f"{name} has {value!r}; it must be > 0 and finite")
        if not self.fractions:
            raise SweepError("fractions is empty; give at least one, for example 0.5")
        if self.requests < 1:
            raise SweepError(f"requests has {self.requests}; it must be >= 1")

    def seconds_at(self, rate: float) -> float:
        """Return how long requests are sent at `rate` a second."""
        return max(self.seconds, self.requests / rate)


@dataclass(frozen=True)
class Sweep:
    """One server, one workload; each method measures a part."""

    client: AsyncClient
    workload: Workload
    plan: SweepPlan
    slo: Slo | None
    report: Report

    async def closed(self, slots: int) -> tuple[list[dict[str, Any]], float]:
        """Return the rows of 1, 2, 4... up to `slots` at once, and the saturation in requests/s.

        Raises SweepError when nothing was completed.
        """
        rows, rates = [], []
        for concurrency in concurrencies(slots):
            name = f"closed loop of {concurrency}"
            load = await closed_loop(
                self.client,
                self.workload.jobs(name),
                concurrency=concurrency,
                seconds=self.plan.seconds,
                timeout=self.plan.timeout,
                progress=self._progress(name),
            )
            row = load_row(load, self.slo)
            rows.append({"concurrency": concurrency, **row})
            if not row["completed"]:
                raise SweepError(
                    f"no request of {row['requests']} at concurrency {concurrency} was completed: "
                    f"{row['errors']}; look at the server's log, or raise the timeout of "
                    f"{self.plan.timeout:g} s"
                )
            rates.append(closed_rate(load, concurrency))
        return rows, max(rates)

    async def open(self, rate: float, *, burstiness: float = 1.0) -> dict[str, Any]:
        """Return the row of one rate in requests/s."""
        arrivals = Arrivals(rate, self.plan.seconds_at(rate), burstiness, self.plan.seed)
        name = f"{arrivals.process} at {rate:.3g}/s"
        load = await open_loop(
            self.client,
            self.workload.jobs(name),
            arrivals,
            timeout=self.plan.timeout,
            progress=self._progress(name),
        )
        offered = {
            "arrivals": arrivals.process,
            "burstiness": burstiness,
            "offered_per_s": round(rate, 4),
        }
        return {**offered, **load_row(load, self.slo)}

    async def opened(self, saturation: float) -> list[dict[str, Any]]:
        """Return the rows of all rates of the plan."""
        rows = [await self.open(fraction * saturation) for fraction in self.plan.fractions]
        if self.plan.bursty:
            rate = BURSTY_FRACTION * saturation
            rows.append(await self.open(rate, burstiness=BURSTINESS))
        return rows

    async def overload(
        self, saturation: float, rows: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Return the row of twice the saturation; `goodput_of_knee` is its part of the knee's."""
        row = await self.open(OVERLOAD * saturation)
        best = _knee_row(rows)
        good, part = row["goodput_per_s"], None
        if best is not None and best["goodput_per_s"]:
            part = round(good / best["goodput_per_s"], 4)
        return {**row, "goodput_of_knee": part}

    def _progress(self, name: str) -> Progress:
        return lambda done, total: self.report(name, done, total)


def concurrencies(slots: int) -> tuple[int, ...]:
    """Return 1, 2, 4... below `slots`, and `slots`."""
    return (*(1 << n for n in range((slots - 1).bit_length())), slots)


def closed_rate(load: Load, concurrency: int) -> float:
    """Return requests/s of a closed loop while it was full: concurrency / mean time of a request.

    That is Little's law. Requests over seconds would count the end, when the loop empties, too.
    """
    return concurrency / mean(sent.seconds for sent in load.sent if sent.error is None)


def knee(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the greatest Poisson rate at which KNEE_FRACTION of the requests met the bounds.

    None when none did, or there are no bounds.
    """
    best = _knee_row(rows)
    if best is None:
        return None
    return {
        "requests_per_s": best["offered_per_s"],
        "goodput_fraction": best["goodput_fraction"],
    }


def _knee_row(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    met = [
        row
        for row in rows
        if row["arrivals"] == "poisson"
        and row["goodput_fraction"] is not None
        and row["goodput_fraction"] >= KNEE_FRACTION
    ]
    return max(met, key=lambda row: float(row["offered_per_s"]), default=None)
