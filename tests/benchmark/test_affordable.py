"""What there is time to repeat."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgellama.benchmark.affordable import affordable

TOOK = {"short": 1.0, "long": 10.0, "middle": 4.0}


def test_the_longest_are_left_out() -> None:
    assert affordable(TOOK, 2, 30.0) == set(TOOK)
    assert affordable(TOOK, 2, 29.9) == {"short", "middle"}
    assert affordable(TOOK, 2, 2.0) == {"short"}
    assert affordable(TOOK, 2, 1.9) == set()
    assert affordable(TOOK, 0, 0.0) == set(TOOK), "no repeat takes no time"
    assert affordable(TOOK, 2, -1.0) == set()


@given(
    st.dictionaries(st.integers(), st.floats(0, 1e3), max_size=20),
    st.integers(1, 9),
    st.floats(-10, 1e4),
)
def test_it_ends_in_time_and_wastes_none(
    seconds: dict[int, float], repeats: int, left: float
) -> None:
    found = affordable(seconds, repeats, left)
    cost = sum(repeats * seconds[key] for key in found)
    assert not found or cost <= left + 1e-6
    others = [repeats * each for key, each in seconds.items() if key not in found]
    assert not others or cost + min(others) > left - 1e-6
