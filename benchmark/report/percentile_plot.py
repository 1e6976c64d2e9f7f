"""Percentiles of the time to first token and between tokens, a line for each cell."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from edgellama.benchmark.report.document import Run
from edgellama.benchmark.report.figures import REPORTED, Percentiles
from edgellama.benchmark.report.latency_part import RequestRow
from edgellama.benchmark.report.number import TIMES, short
from edgellama.benchmark.report.sheet import Drawing, Sheet, plain, set_log, text_width, widened
from edgellama.benchmark.report.theme import BLUE, GREEN, INK, MUTED, PAPER

_LINE = 24  # pixels a cell
_TOP, _BOTTOM = 62, 40
_MARGIN = 56  # pixels at both ends, for the numbers beside the markers
# Marker, size and whether it is filled, by percentile: they differ without their colour.
_MARKS = {"p50": ("o", 8.0, True), "p90": ("o", 5.0, True), "p95": ("o", 6.0, False),
          "p99": ("|", 10.0, True)}  # fmt: skip


def cell_name(row: RequestRow) -> str:
    """Return what was asked: rows at once, times the tokens of each prompt."""
    return f"{row.rows} {TIMES} {row.prompt_tokens:,}"


def draw_percentiles(run: Run, sheet: Sheet) -> Figure | None:
    """Draw the two panels, side by side or one below the other; None without requests."""
    rows = (run.latency.requests if run.latency else None) or ()
    if not any(row.ttft_ms.n for row in rows):
        return None
    panels = [
        ("time to first token, ms", BLUE, [row.ttft_ms for row in rows]),
        ("between tokens (ITL), ms", GREEN, [row.itl_ms for row in rows]),
    ]
    panels = [panel for panel in panels if any(found.n for found in panel[2])]
    names = [cell_name(row) for row in rows]
    left = max(*map(text_width, names), text_width(f"rows {TIMES} prompt", 10.5)) + 14
    body = len(rows) * _LINE
    stacked = sheet.narrow
    height = (_TOP + body + _BOTTOM) * (len(panels) if stacked else 1)
    drawing = sheet.drawing(height, "Percentiles of latency")
    gap = 34
    width = sheet.width - left - 18
    if not stacked:
        width = (width - gap * (len(panels) - 1)) / len(panels)
    for number, (title, colour, found) in enumerate(panels):
        x = left if stacked else left + number * (width + gap)
        y = _TOP + (number * (_TOP + body + _BOTTOM) if stacked else 0)
        axes = drawing.axes(x, y, width, body)
        _panel(axes, found, colour)
        drawing.text(x, y - 12, title, size=10.5, weight="bold", color=colour)
        if stacked or number == 0:
            axes.set_yticks(range(len(names)), names)
            drawing.text(0, y - 12, f"rows {TIMES} prompt", size=10.5, color=MUTED)
        else:
            axes.set_yticks([])
    _key(drawing, sheet)
    return drawing.figure


def _panel(axes: Axes, found: Sequence[Percentiles], colour: str) -> None:
    values = [value for one in found for value in one.values if value is not None]
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelsize=11, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(True, axis="x")
    if min(values) > 0:
        width = axes.get_window_extent().width
        set_log(axes, "x", *widened(min(values), max(values), width, _MARGIN), 6)
    else:  # a gap of 0 has no place on a logarithmic scale
        axes.set_xlim(-0.1 * max(*values, 1.0), 1.2 * max(*values, 1.0))
        plain(axes, "x")
    for line, one in enumerate(found):
        if one.p50 is None or one.p99 is None:
            axes.annotate("no time measured", (0.5, line), xycoords=("axes fraction", "data"),
                          ha="center", va="center", fontsize=9.5)  # fmt: skip
            continue
        axes.plot([one.p50, one.p99], [line, line], color=colour, linewidth=1.6)
        for name, value in zip(REPORTED, one.values, strict=True):
            assert value is not None, "all percentiles are there, or none"
            marker, size, filled = _MARKS[name]
            axes.plot([value], [line], marker, color=colour, markersize=size, markeredgewidth=1.6,
                      markerfacecolor=colour if filled else PAPER)  # fmt: skip
        for value, side, away in ((one.p50, "right", -8), (one.p99, "left", 7)):
            axes.annotate(short(value), (value, line), xytext=(away, 0), va="center", ha=side,
                          textcoords="offset points", fontsize=10)  # fmt: skip


def _key(drawing: Drawing, sheet: Sheet) -> None:
    """Say which marker is which percentile, in the line of the title."""
    handles = []
    for name, (marker, size, filled) in _MARKS.items():
        face = BLUE if filled else PAPER
        handles.append(Line2D([], [], marker=marker, color=BLUE, ls="", markersize=size,
                              markeredgewidth=1.6, markerfacecolor=face, label=name))  # fmt: skip
    drawing.figure.legend(
        handles=handles, loc="upper right", bbox_to_anchor=(1.0, 1.0), ncols=4, handletextpad=0.1,
        columnspacing=1.0, borderaxespad=0.0, handlelength=1.2,
    )  # fmt: skip
