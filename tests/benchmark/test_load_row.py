"""The arithmetic of a row, on times that are given."""

from __future__ import annotations

import pytest

from edgellama.benchmark.load import Load, Sent
from edgellama.benchmark.load_row import load_row
from edgellama.benchmark.slo import SloError, slo_met, slo_of
from edgellama.benchmark.stream import StreamTimes
from edgellama.profiles.profile import Slo, load_profile

SLO = Slo(ttft_ms=100.0, itl_ms=10.0, source="test")


def answer(ttft: float, gap: float, tokens: int, *, merged: int = 1) -> Sent:
    """Tokens every `gap` seconds after the first, the later ones `merged` to a message."""
    times = StreamTimes(sent=5.0)
    times.arrive(5.0 + ttft, 1)
    for number in range(merged, tokens, merged):
        times.arrive(5.0 + ttft + number * gap, merged)
    times.ended = 5.0 + ttft + (tokens - 1) * gap
    return Sent(times, lag=0.001)


def failed(reason: str) -> Sent:
    return Sent(StreamTimes(sent=5.0, ended=5.2), lag=0.0, error=reason)


def test_rates_are_over_the_whole_time() -> None:
    row = load_row(Load((answer(0.05, 0.005, 11), answer(0.05, 0.005, 21)), 4.0, 1.0), None)
    assert (row["requests"], row["completed"], row["seconds"]) == (2, 2, 4.0)
    assert row["requests_per_s"] == 0.5
    assert row["output_tokens_per_s"] == 8.0
    assert row["driver_cpu"] == 0.25
    assert row["send_lag_ms"]["p50"] == 1.0
    assert row["e2el_ms"] == pytest.approx(
        {"n": 2, "p50": 125.0, "p90": 145.0, "p95": 147.5, "p99": 149.5}
    )


def test_gaps_are_of_tokens_and_of_messages() -> None:
    row = load_row(Load((answer(0.05, 0.004, 13, merged=4),), 1.0, 0.0), None)
    assert row["itl_ms"]["n"] == 12 and row["itl_ms"]["p50"] == pytest.approx(4.0)
    assert row["icl_ms"]["n"] == 3 and row["icl_ms"]["p50"] == pytest.approx(16.0)
    assert row["tpot_ms"]["p50"] == pytest.approx(4.0)


def test_errors_are_counted_by_reason_and_have_no_times() -> None:
    sent = (failed("QUEUE_FULL"), answer(0.05, 0.005, 3), failed("Unavailable"))
    row = load_row(Load((*sent, failed("QUEUE_FULL")), 2.0, 0.0), SLO)
    assert row["errors"] == {"QUEUE_FULL": 2, "Unavailable": 1}
    assert (row["requests"], row["completed"], row["ttft_ms"]["n"], row["e2el_ms"]["n"]) == (
        4,
        1,
        1,
        1,
    )
    # A refused request is not good: it counts in the fraction.
    assert (row["goodput_per_s"], row["goodput_fraction"]) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("sent", "good"),
    [
        (answer(0.09, 0.009, 5), True),
        (answer(0.11, 0.001, 5), False),  # the first token is late
        (answer(0.01, 0.011, 5), False),  # the others are slow
        (answer(0.09, 0.0, 1), True),  # one token has no time after it
    ],
)
def test_both_bounds_must_be_met(sent: Sent, good: bool) -> None:
    assert slo_met(SLO, sent.times) is good
    row = load_row(Load((sent, answer(0.01, 0.001, 5)), 1.0, 0.0), SLO)
    assert row["goodput_per_s"] == 1.0 + good


def test_without_bounds_there_is_no_goodput() -> None:
    row = load_row(Load((answer(0.05, 0.005, 3),), 1.0, 0.0), None)
    assert row["goodput_per_s"] is None and row["goodput_fraction"] is None


def test_nothing_sent_is_a_row_without_a_fraction() -> None:
    row = load_row(Load((), 1.0, 0.0), SLO)
    assert (row["requests"], row["goodput_per_s"], row["goodput_fraction"]) == (0, 0.0, None)
    assert row["ttft_ms"] == {"n": 0}


def test_the_bounds_of_a_profile() -> None:
    assert slo_of(load_profile("a100-8b")).ttft_ms > 0
    from dataclasses import replace

    bare = replace(load_profile("a100-8b"), slo=None)
    with pytest.raises(SloError, match="--slo-ttft-ms"):
        slo_of(bare)
