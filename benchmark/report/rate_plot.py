"""The rate sweep: what is offered against what arrives in time, and where the knee is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edgellama.benchmark.report.document import Run
from edgellama.benchmark.report.labels import (
    Box,
    Label,
    along,
    around,
    box_of,
    pixels,
    place_labels,
)
from edgellama.benchmark.report.number import clip, milliseconds, number, short
from edgellama.benchmark.report.serve_part import LoadRow, ServePart
from edgellama.benchmark.report.sheet import Sheet, heading, plain, set_log, text_width
from edgellama.benchmark.report.theme import BLUE, GREEN, INK, MUTED, PAPER, PURPLE, VERMILION

_MARKERS = ("o", "s", "^", "v")
_TOP, _GAP, _BOTTOM, _LEFT, _RIGHT = 94, 40, 44, 50, 20
_LOG_FROM = 20.0  # the greatest by the least: from here on a scale is logarithmic
Value = Callable[[LoadRow], float | None]
Dashes = str | tuple[int, tuple[int, int]]


def arrivals_name(row: LoadRow) -> str:
    """Return how requests arrived: Poisson, or gamma with its burstiness."""
    if row.arrivals == "poisson":
        return "Poisson"
    more = "" if row.burstiness is None else f" {row.burstiness:g}"
    return f"{clip(row.arrivals, 16)}{more}"


def draw_rates(run: Run, sheet: Sheet) -> Figure | None:
    """Draw goodput and p95 of TTFT and TPOT over the offered rate; None without a sweep."""
    serve = run.serve
    if serve is None or not serve.open:
        return None
    series: dict[str, list[LoadRow]] = {}
    for row in sorted(serve.open, key=lambda row: row.offered_per_s or 0.0):
        series.setdefault(arrivals_name(row), []).append(row)
    slo = serve.slo
    panels: list[tuple[str, Value, float | None]] = [
        ("goodput, requests/s", lambda row: row.goodput_per_s, None),
        ("TTFT p95, ms", lambda row: row.ttft_ms.p95, slo.ttft_ms if slo else None),
        ("TPOT p95, ms", lambda row: row.tpot_ms.p95, slo.itl_ms if slo else None),
    ]
    tall, low = (190, 150) if sheet.narrow else (210, 140)
    heights = [tall, low, low]
    total = _TOP + sum(heights) + _GAP * (len(panels) - 1) + _BOTTOM
    drawing = sheet.drawing(total, "Offered load against what arrives in time")
    rates = [row.offered_per_s or 0.0 for row in (*serve.open, *_overload(serve))]
    top = float(_TOP)
    for place, ((title, value, limit), height) in enumerate(zip(panels, heights, strict=True)):
        axes = drawing.axes(_LEFT, top, sheet.width - _LEFT - _RIGHT, height)
        top += height + _GAP
        axes.set_xlim(0, max(rates) * 1.04)
        plain(axes, "x")
        axes.grid(True)
        heading(axes, title, left=_LEFT, rise=9 if place else 38)
        _scale(axes, [*serve.open, *_overload(serve)], value, limit)
        taken = _marks(axes, serve, first=place == 0)
        if place == 0:
            taken += _ideal(axes, max(rates))
        if limit is not None:
            taken += _slo(axes, limit)
        labels = _lines(axes, series, value, taken)
        labels += _overload_point(axes, serve, value, taken, first=place == 0)
        place_labels(axes, labels, taken)
        if place < len(panels) - 1:
            axes.tick_params(axis="x", labelbottom=False)
        else:
            axes.set_xlabel("offered load, requests/s", fontsize=10.5)
    return drawing.figure


def _overload(serve: ServePart) -> Sequence[LoadRow]:
    found = serve.overload
    return () if found is None or found.offered_per_s is None else (found,)


def _scale(axes: Axes, rows: Sequence[LoadRow], value: Value, limit: float | None) -> None:
    """Set the range of a panel: from 0, or logarithmic where the values differ by much."""
    found = [v for row in rows if (v := value(row)) is not None]
    found += [limit] if limit is not None else []
    if not found:
        axes.set_ylim(0, 1)
    elif limit is not None and min(found) > 0 and max(found) / min(found) > _LOG_FROM:
        set_log(axes, "y", min(found) / 1.6, max(found) * 1.6, 6)
        return
    else:
        axes.set_ylim(0, max(found) * 1.25 or 1)
    axes.locator_params(axis="y", nbins=5)
    plain(axes, "y")


def _marks(axes: Axes, serve: ServePart, *, first: bool) -> list[Box]:
    """Draw knee and saturation across a panel, the first names them; returns what they cover."""
    found: list[tuple[float, str, Dashes, str]] = []
    if serve.knee is not None:
        rate = serve.knee.requests_per_s
        found.append((rate, INK, "-", f"knee {number(rate)}/s"))
    if serve.saturation_requests_per_s is not None:
        rate = serve.saturation_requests_per_s
        found.append((rate, MUTED, (0, (4, 3)), f"saturation {number(rate)}/s"))
    taken = []
    for line, (rate, colour, dashes, name) in enumerate(found):
        axes.axvline(rate, color=colour, linewidth=1.0, linestyle=dashes, zorder=1.6)
        low, high = axes.get_ylim()
        taken += along(axes, [(rate, low), (rate, high)])
        if not first:
            continue
        rise = 6 + 13 * (len(found) - 1 - line)
        end = box_of(axes).right + _RIGHT
        inside = pixels(axes, rate, high)[0] + 4 + text_width(name, 10) < end
        axes.annotate(
            name, (rate, 1), xycoords=("data", "axes fraction"), color=colour, fontsize=10,
            xytext=(4 if inside else -4, rise), textcoords="offset points",
            ha="left" if inside else "right",
        )  # fmt: skip
        axes.annotate(
            "", (rate, 1), xycoords=("data", "axes fraction"), xytext=(0, rise + 9),
            textcoords="offset points",
            arrowprops={"arrowstyle": "-", "color": colour, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
    return taken


def _ideal(axes: Axes, highest: float) -> list[Box]:
    """Draw the line of a server that answers every request in time."""
    end = min(highest, axes.get_ylim()[1])
    axes.plot([0, end], [0, end], color=MUTED, linewidth=1.0, linestyle=":", zorder=1.5)
    return along(axes, [(0, 0), (end, end)])


def _lines(
    axes: Axes, series: dict[str, list[LoadRow]], value: Value, taken: list[Box]
) -> list[Label]:
    """Draw a line for each kind of arrivals; returns their names, and adds what they cover."""
    labels = []
    for place, (name, rows) in enumerate(series.items()):
        colour = (BLUE, PURPLE, GREEN)[place % 3]
        points = [(row.offered_per_s or 0.0, v) for row in rows if (v := value(row)) is not None]
        if not points:
            continue
        x, y = [point[0] for point in points], [point[1] for point in points]
        axes.plot(x, y, color=colour, linewidth=1.7, marker=_MARKERS[place % 4], markersize=5)
        taken += along(axes, points) + [around(axes, *point) for point in points]
        labels.append(Label(*points[-1], name, colour))
    return labels


def _slo(axes: Axes, limit: float) -> list[Box]:
    axes.axhline(limit, color=VERMILION, linewidth=1.2, linestyle=(0, (5, 3)), zorder=1.7)
    text = f"SLO {milliseconds(limit)}"
    axes.annotate(
        text, (0, limit), xycoords=("axes fraction", "data"), xytext=(6, 5),
        textcoords="offset points", color=VERMILION, fontsize=10,
    )  # fmt: skip
    left, right = axes.get_xlim()
    x, y = pixels(axes, left, limit)
    written = Box(x, y, x + 10 + text_width(text, 10), y + 16)
    return [*along(axes, [(left, limit), (right, limit)]), written]


def _overload_point(
    axes: Axes, serve: ServePart, value: Value, taken: list[Box], *, first: bool
) -> list[Label]:
    """Mark the run far beyond saturation: what still arrives in time there."""
    labels = []
    for row in _overload(serve):
        found = value(row)
        if found is None:
            continue
        assert row.offered_per_s is not None
        axes.plot([row.offered_per_s], [found], "D", color=VERMILION, markersize=7,
                  markerfacecolor=PAPER, markeredgewidth=1.7)  # fmt: skip
        taken.append(around(axes, row.offered_per_s, found, 6))
        text = f"overload {short(found)}"
        if first and row.goodput_of_knee is not None:
            text = f"overload {100 * row.goodput_of_knee:.0f} % of knee"
        labels.append(Label(row.offered_per_s, found, text, VERMILION))
    return labels
