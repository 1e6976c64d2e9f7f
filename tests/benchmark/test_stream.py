"""Times of one stream and the speed of several."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama.benchmark.percentiles import percentiles_ms
from edgellama.benchmark.stream import StreamTimes, steady_rate


def stream(sent: float, *arrivals: tuple[float, int]) -> StreamTimes:
    times = StreamTimes(sent)
    for now, tokens in arrivals:
        times.arrive(now, tokens)
    return times


def test_the_first_message_with_tokens_counts() -> None:
    times = stream(1.0, (1.1, 0), (1.5, 1), (1.7, 2))
    assert times.ttft == pytest.approx(0.5)
    assert times.tokens == 3


def test_a_message_of_two_tokens_is_two_gaps() -> None:
    assert stream(0.0, (1.0, 1), (1.4, 2)).gaps == pytest.approx([0.2, 0.2])


def test_one_token_has_no_time_per_token() -> None:
    assert stream(0.0, (1.0, 1)).tpot is None
    assert stream(0.0, (1.0, 1), (1.3, 1), (1.6, 1)).tpot == pytest.approx(0.3)


def test_a_stream_without_a_token_has_no_first() -> None:
    with pytest.raises(ValueError, match="without a token"):
        _ = stream(0.0).ttft


def test_the_steady_window_is_where_all_decode() -> None:
    early = stream(0.0, *((float(second), 1) for second in range(0, 11)))
    late = stream(0.0, *((float(second), 1) for second in range(5, 16)))
    # Between 5 and 10 both give a token a second; the opening message is outside.
    assert steady_rate([early, late]) == pytest.approx(2.0)


def test_streams_that_never_meet_have_no_rate() -> None:
    assert steady_rate([stream(0.0, (1.0, 1), (2.0, 1)), stream(0.0, (3.0, 1), (4.0, 1))]) is None
    assert steady_rate([stream(0.0)]) is None


@given(st.lists(st.tuples(st.floats(0.001, 1.0), st.integers(1, 5)), min_size=1, max_size=20))
def test_the_gaps_fill_the_time_between_first_and_last(steps: list[tuple[float, int]]) -> None:
    times, now = StreamTimes(0.0), 0.0
    for gap, tokens in steps:
        now += gap
        times.arrive(now, tokens)
    assert sum(times.gaps) == pytest.approx(now - steps[0][0], abs=1e-9)
    assert len(times.gaps) == times.tokens - steps[0][1]


def test_percentiles_are_in_milliseconds() -> None:
    assert percentiles_ms([0.001 * n for n in range(101)]) == {
        "n": 101,
        "p50": 50.0,
        "p90": 90.0,
        "p95": 95.0,
        "p99": 99.0,
    }
    assert percentiles_ms([]) == {"n": 0}
