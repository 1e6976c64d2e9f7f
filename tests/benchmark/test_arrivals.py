"""Properties of the send times of an open loop."""

from __future__ import annotations

import random
from statistics import mean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama.benchmark.arrivals import Arrivals, ArrivalsError

SEEDS = st.integers(0, 2**32)
SHAPES = st.sampled_from([0.25, 0.5, 1.0, 4.0])


def gaps(arrivals: Arrivals) -> list[float]:
    times = arrivals.times()
    return [after - before for before, after in zip((0.0, *times), times, strict=False)]


@given(SEEDS, SHAPES, st.floats(0.01, 100), st.floats(0.01, 20))
def test_times_rise_within_the_duration(
    seed: int, shape: float, rate: float, seconds: float
) -> None:
    times = Arrivals(rate, seconds, shape, seed).times()
    assert list(times) == sorted(times)
    assert all(0 <= time < seconds for time in times)


@given(SEEDS, SHAPES, st.sampled_from([0.5, 3.0, 50.0]))
def test_the_mean_gap_is_one_over_the_rate(seed: int, shape: float, rate: float) -> None:
    seen = gaps(Arrivals(rate, 4000 / rate, shape, seed))
    # The mean of n gaps strays by 1 / sqrt(n shape) of itself; seven times that never happens.
    assert mean(seen) * rate == pytest.approx(1.0, abs=7 / (4000 * shape) ** 0.5)


@given(SEEDS, SHAPES)
def test_the_seed_decides(seed: int, shape: float) -> None:
    one = Arrivals(20.0, 5.0, shape, seed)
    assert one.times() == Arrivals(20.0, 5.0, shape, seed).times()
    assert one.times() != Arrivals(20.0, 5.0, shape, seed + 1).times()


@given(SEEDS)
def test_burstiness_1_is_poisson(seed: int) -> None:
    draw = random.Random(seed)
    seen = gaps(Arrivals(7.0, 30.0, 1.0, seed))
    assert seen == pytest.approx([draw.expovariate(7.0) for _ in seen])


@pytest.mark.parametrize("shape", [0.25, 1.0, 4.0])
def test_the_variation_of_the_gaps_is_the_gammas(shape: float) -> None:
    seen = gaps(Arrivals(10.0, 2000.0, shape, 3))
    assert pstdev(seen) / mean(seen) == pytest.approx(shape**-0.5, rel=0.05)


def test_the_names() -> None:
    assert Arrivals(1.0, 1.0).process == "poisson"
    assert Arrivals(1.0, 1.0, 0.25).process == "gamma"


@pytest.mark.parametrize("field", ["rate", "seconds", "burstiness"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_what_makes_no_arrivals_is_refused(field: str, value: float) -> None:
    with pytest.raises(ArrivalsError, match=field):
        Arrivals(**{"rate": 1.0, "seconds": 1.0, field: value})
