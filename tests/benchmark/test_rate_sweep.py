"""Saturation and knee from given rows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama.benchmark.arrivals import Arrivals
from edgellama.benchmark.load import Load, Sent
from edgellama.benchmark.rate_sweep import (
    SweepError,
    SweepPlan,
    closed_rate,
    concurrencies,
    knee,
)
from edgellama.benchmark.stream import StreamTimes


def row(rate: float, fraction: float | None, arrivals: str = "poisson") -> dict[str, Any]:
    return {"arrivals": arrivals, "offered_per_s": rate, "goodput_fraction": fraction}


@pytest.mark.parametrize(
    ("slots", "expected"),
    [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8)), (9, (1, 2, 4, 8, 9))],
)
def test_concurrencies_double_up_to_the_slots(slots: int, expected: tuple[int, ...]) -> None:
    assert concurrencies(slots) == expected


def test_the_knee_is_the_greatest_rate_that_meets_the_bounds() -> None:
    rows = [row(1.0, 1.0), row(3.0, 0.95), row(2.0, 0.9), row(4.0, 0.94)]
    assert knee(rows) == {"requests_per_s": 3.0, "goodput_fraction": 0.95}


@pytest.mark.parametrize(
    "rows",
    [
        [row(1.0, 0.9499)],
        [row(1.0, None)],  # no bounds, or nothing sent
        [row(1.0, 1.0, "gamma")],  # bursts are beside the sweep
        [],
    ],
)
def test_there_may_be_no_knee(rows: list[dict[str, Any]]) -> None:
    assert knee(rows) is None


@given(st.integers(1, 64), st.lists(st.floats(0.01, 10), min_size=1, max_size=30))
def test_a_full_loop_is_littles_law(concurrency: int, seconds: list[float]) -> None:
    done = tuple(Sent(StreamTimes(1.0, ended=1.0 + one), 0.0) for one in seconds)
    error = Sent(StreamTimes(1.0, ended=500.0), 0.0, error="QUEUE_FULL")
    mean = sum(seconds) / len(seconds)
    rate = closed_rate(Load((*done, error), 1.0, 0.0), concurrency)
    assert rate * mean == pytest.approx(concurrency)


@pytest.mark.parametrize(
    "plan",
    [
        {"seconds": 0.0},
        {"timeout": -1.0},
        {"fractions": ()},
        {"fractions": (0.5, 0.0)},
        {"requests": 0},
    ],
    ids=str,
)
def test_a_plan_is_checked(plan: dict[str, Any]) -> None:
    with pytest.raises(SweepError, match=next(iter(plan))):
        SweepPlan(**plan)


@pytest.mark.parametrize(("rate", "seconds"), [(0.1, 60.0), (2.0, 3.0), (4.0, 3.0)])
def test_a_low_rate_lasts_until_requests_are_due(rate: float, seconds: float) -> None:
    assert SweepPlan(3.0, requests=6).seconds_at(rate) == seconds


def test_every_rate_of_a_slow_server_sends_requests() -> None:
    plan = SweepPlan(3.0)
    for rate in (0.01, 0.1, 1.0):
        assert Arrivals(rate, plan.seconds_at(rate), seed=plan.seed).times()
