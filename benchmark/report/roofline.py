"""The roofline: how near each prefill and each step is to what the machine can do.

Williams, Waterman and Patterson, Communications of the ACM 52 (4), 2009: with `x` operations for
each byte that is moved, no more than min(matrix ceiling, x * bandwidth) operations/s are possible.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from edgellama.benchmark.report.document import Run
from edgellama.benchmark.report.figures import Series
from edgellama.benchmark.report.labels import (
    Box,
    Label,
    along,
    around,
    pixels,
    place_labels,
    squares,
)
from edgellama.benchmark.report.latency_part import Ceilings, LatencyPart
from edgellama.benchmark.report.number import EN_DASH, TIMES, number
from edgellama.benchmark.report.sheet import Sheet, heading, set_log, text_width
from edgellama.benchmark.report.theme import BLUE, INK, MUTED, VERMILION

_ROOMY = 500  # pixels of the axes: below it labels say less
_NEAR = 18  # pixels: points of a series that are nearer share a label


@dataclass(frozen=True)
class Point:
    """Operations a byte, and 10^9 operations/s; `tokens` are those of the prompt or context."""

    intensity: float
    rate: Series
    tokens: int
    rows: int


def prefill_points(part: LatencyPart) -> list[Point]:
    """Return a point for each cell whose prefill was measured.

    Without `prefill_bytes` the bytes are those of one step: every weight once, and the cache.
    """
    points = []
    for row in part.requests or ():
        moved = row.prefill_bytes or row.decode_bytes
        if row.prefill_tokens_per_s and row.prefill_operations and moved:
            a_token = row.prefill_operations / (row.rows * row.prompt_tokens)
            rate = row.prefill_tokens_per_s.scaled(a_token / 1e9)
            points.append(Point(row.prefill_operations / moved, rate, row.prompt_tokens, row.rows))
    return points


def step_points(part: LatencyPart) -> list[Point]:
    """Return a point for each decode step."""
    points = []
    for row in part.steps or ():
        rate = Series(
            row.ms.n,
            row.operations / row.ms.median / 1e6,
            row.operations / row.ms.high / 1e6,
            row.operations / row.ms.low / 1e6,
            row.ms.spread,
        )
        points.append(Point(row.operations / row.bytes, rate, row.context, row.rows))
    return points


def draw_roofline(run: Run, sheet: Sheet) -> Figure | None:
    """Draw the ceilings and every point under them; None where nothing can be placed."""
    if run.latency is None or run.latency.ceilings is None:
        return None
    ceilings = run.latency.ceilings
    prefills, steps = prefill_points(run.latency), step_points(run.latency)
    points = prefills + steps
    if not points:
        return None
    top, bottom, left = (72, 44, 44) if sheet.narrow else (52, 44, 44)
    height = 310 if sheet.narrow else 370
    drawing = sheet.drawing(top + height + bottom, "Roofline: work against the machine's ceilings")
    axes = drawing.axes(left, top, sheet.width - left - 18, height)
    heading(axes, "GFLOP/s", left=left)
    axes.set_xlabel("operations for each byte moved", fontsize=10.5)
    limits = _limits(ceilings, points)
    set_log(axes, "x", *limits[0], 5 if sheet.narrow else 9)
    set_log(axes, "y", *limits[1], 8)
    axes.grid(True)
    taken = _draw_ceilings(axes, ceilings, limits)
    labels: list[Label] = []
    for found, marker, colour in ((prefills, "o", VERMILION), (steps, "s", BLUE)):
        for point in found:
            x, y = point.intensity, point.rate.median
            axes.plot([x, x], [point.rate.low, point.rate.high], color=colour, linewidth=1.4)
            axes.plot([x], [y], marker, color=colour, markersize=6.5, markeredgewidth=0)
            taken.append(around(axes, x, y, 4))
        labels += _labels(axes, found, colour)
    place_labels(axes, labels, taken, size=9.5 if sheet.narrow else 10)
    _key(axes, bool(prefills), bool(steps), narrow=sheet.narrow)
    return drawing.figure


def _limits(
    ceilings: Ceilings, points: Sequence[Point]
) -> tuple[tuple[float, float], tuple[float, float]]:
    bandwidth, matrix = ceilings.read_gb_s.median, ceilings.matrix.median
    highest = max(found.median for found in ceilings.matrix_gops.values() if found)
    x = [point.intensity for point in points]
    y = [value for point in points for value in (point.rate.low, point.rate.high)]
    right = max(*x, matrix / bandwidth * 4) * 2.2
    return (min(x) / 2.5, right), (min(*y, min(x) * bandwidth) / 3, max(*y, highest) * 2)


def _draw_ceilings(
    axes: Axes, ceilings: Ceilings, limits: tuple[tuple[float, float], tuple[float, float]]
) -> list[Box]:
    """Draw the two ceilings, and faintly those of other precisions; returns what they cover."""
    (left, right), (low, _) = limits
    bandwidth, used = ceilings.read_gb_s.median, ceilings.matrix.median
    highest = max(found.median for found in ceilings.matrix_gops.values() if found)
    taken: list[Box] = []
    start = max(left, low / bandwidth)
    slope = [(start, start * bandwidth), (used / bandwidth, used)]
    roof = [*slope, (right, used)]
    axes.plot([p[0] for p in roof], [p[1] for p in roof], color=INK, linewidth=1.8, zorder=2)
    taken += along(axes, roof)
    if highest > used:
        more = [(used / bandwidth, used), (highest / bandwidth, highest)]
        axes.plot([p[0] for p in more], [p[1] for p in more], color=MUTED, linewidth=0.9, ls=":")
        taken += along(axes, more)
    ordered = [(found, name) for name, found in ceilings.matrix_gops.items() if found]
    heights: list[float] = []
    what = " matrix product" if axes.get_window_extent().width > _ROOMY else ""
    for found, name in sorted(ordered, key=lambda item: (item[1] != ceilings.matrix_used,)):
        mine = name == ceilings.matrix_used
        line = [(found.median / bandwidth, found.median), (right, found.median)]
        if not mine:
            axes.plot([p[0] for p in line], [found.median] * 2, color=MUTED, linewidth=0.9, ls=":")
            taken += along(axes, line)
        y = pixels(axes, right, found.median)[1]
        below = any(0 <= other - y < 15 for other in heights)
        heights.append(y)
        value = number(found.median)
        text = f"{name}{what} {value} GFLOP/s" if mine else f"{name} {value}"
        taken.append(_right_label(axes, right, found.median, text, mine=mine, below=below))
    (ax, ay), (bx, by) = (pixels(axes, *point) for point in slope)
    angle = math.degrees(math.atan2(by - ay, bx - ax))
    axes.annotate(
        f"read {number(bandwidth)} GB/s", _between(slope, 0.5),
        xytext=(-7 * math.sin(math.radians(angle)), 7 * math.cos(math.radians(angle))),
        textcoords="offset points", rotation=angle, rotation_mode="anchor", ha="center",
        va="baseline", color=INK, fontsize=10,
    )  # fmt: skip
    px, py = pixels(axes, *_between(slope, 0.5))
    reach, rise = 60 * math.cos(math.radians(angle)), 60 * math.sin(math.radians(angle))
    taken += squares([(px - reach, py - rise + 14), (px + reach, py + rise + 14)], 6)
    return taken


def _between(line: Sequence[tuple[float, float]], part: float) -> tuple[float, float]:
    """Return a point of a line, by its part of the way on logarithmic axes."""
    (ax, ay), (bx, by) = line
    return ax ** (1 - part) * bx**part, ay ** (1 - part) * by**part


def _right_label(axes: Axes, x: float, y: float, text: str, *, mine: bool, below: bool) -> Box:
    rise = -13.0 if below else 5.0
    axes.annotate(
        text, (x, y), xytext=(-2, rise), textcoords="offset points", ha="right", va="baseline",
        color=INK if mine else MUTED, fontsize=10,
    )  # fmt: skip
    px, py = pixels(axes, x, y)
    return Box(px - 2 - text_width(text, 10), py + rise - 3, px, py + rise + 10)


def _labels(axes: Axes, points: Sequence[Point], colour: str) -> list[Label]:
    """Return a label for each point; neighbours of as many rows that touch share one."""
    found = []
    for rows in sorted({point.rows for point in points}):
        mine = sorted((p for p in points if p.rows == rows), key=lambda p: p.tokens)
        groups: list[list[Point]] = []
        for point in mine:
            if groups and _distance(axes, groups[-1][-1], point) < _NEAR:
                groups[-1].append(point)
            else:
                groups.append([point])
        for group in groups:
            middle = group[len(group) // 2]
            first, last = group[0].tokens, group[-1].tokens
            span = f"{first:,}" if first == last else f"{first:,}{EN_DASH}{last:,}"
            text = f"{rows} {TIMES} {span}"
            found.append(Label(middle.intensity, middle.rate.median, text, colour))
    return found


def _distance(axes: Axes, one: Point, other: Point) -> float:
    ax, ay = pixels(axes, one.intensity, one.rate.median)
    bx, by = pixels(axes, other.intensity, other.rate.median)
    return math.hypot(bx - ax, by - ay)


def _key(axes: Axes, prefill: bool, decode: bool, *, narrow: bool) -> None:
    """Write what the two markers are, at the right end above the axes."""
    kinds = (
        ("o", VERMILION, f"prefill, rows {TIMES} prompt", prefill),
        ("s", BLUE, f"decode step, rows {TIMES} context", decode),
    )
    handles = [
        Line2D([], [], marker=m, color=c, ls="", markersize=6.5, markeredgewidth=0, label=t)
        for m, c, t, there in kinds
        if there
    ]
    axes.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=1 if narrow else 2,
        labelcolor="linecolor", handletextpad=0.1, columnspacing=1.2, borderaxespad=0.1,
    )  # fmt: skip
