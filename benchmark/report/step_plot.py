"""Where the time of a step goes: the model, and magnified everything around it."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from edgellama.benchmark.report.document import Run
from edgellama.benchmark.report.latency_part import STEP_PARTS
from edgellama.benchmark.report.number import TIMES, clip, short
from edgellama.benchmark.report.percentile_plot import cell_name
from edgellama.benchmark.report.sheet import Sheet, plain, text_width
from edgellama.benchmark.report.theme import FILLS, INK, MUTED

_LINE, _TOP, _BOTTOM, _GAP = 24, 84, 40, 34
_MODEL = "run"  # the part that is the model itself
_BAR = 0.62  # of a line
_NUMBER = 54  # pixels for the sum at the end of a bar


def draw_steps(run: Run, sheet: Sheet) -> Figure | None:
    """Draw two panels of stacked bars, a bar for each cell; None where no step was split."""
    rows = [row for row in (run.latency.requests if run.latency else None) or () if row.split]
    if not rows:
        return None
    splits = [row.split for row in rows]
    around = list(dict.fromkeys(name for split in splits for name in split if name != _MODEL))
    colours = _colours(around)
    whole = [[("model", split.get(_MODEL, 0.0), FILLS[-1]), ("around it", _around(split), INK)]
             for split in splits]  # fmt: skip
    close = [[(name, 1e3 * split.get(name, 0.0), colours[name]) for name in around]
             for split in splits]  # fmt: skip
    panels = [("a step, ms", whole)]
    if around:
        panels.append(("around the model, µs", close))
    names = [cell_name(row) for row in rows]
    left = max(*map(text_width, names), text_width(f"rows {TIMES} prompt", 10.5)) + 14
    body, stacked = len(rows) * _LINE, sheet.narrow
    tops = [_TOP, _TOP + (_TOP + body + _BOTTOM if stacked else 0)]
    height = (tops[-1] if len(panels) > 1 else _TOP) + body + _BOTTOM
    drawing = sheet.drawing(height, "Where the time of a step goes")
    width = sheet.width - left - 18
    if not stacked:
        width = (width - _GAP) / 2
    for number, (title, bars) in enumerate(panels):
        x = left if stacked else left + number * (width + _GAP)
        axes = drawing.axes(x, tops[number], width, body)
        _bars(axes, bars, width)
        two_lines = stacked and number > 0
        head = tops[number] - (42 if two_lines else 28)
        drawing.text(x, head, title, size=10.5, weight="bold")
        _key(axes, bars, columns=3 if two_lines else 8)
        axes.set_yticks([])
        if stacked or number == 0:
            axes.set_yticks(range(len(names)), names)
            drawing.text(0, head, f"rows {TIMES} prompt", size=10.5, color=MUTED)
    return drawing.figure


def _around(split: dict[str, float]) -> float:
    return sum(value for name, value in split.items() if name != _MODEL)


def _colours(names: Sequence[str]) -> dict[str, str]:
    """Return a fill for each part: always the same for those that we know."""
    known = [name for name in STEP_PARTS if name != _MODEL]
    fixed = {name: FILLS[i] for i, name in enumerate(known)}
    return {name: fixed.get(name, FILLS[-1]) for name in names}


def _bars(axes: Axes, bars: Sequence[Sequence[tuple[str, float, str]]], width: float) -> None:
    sums = [sum(value for _, value, _ in bar) for bar in bars]
    longest = max(*sums, 1e-9)
    axes.set_xlim(0, longest * width / (width - _NUMBER))
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=11, labelcolor=INK)
    axes.locator_params(axis="x", nbins=6)
    plain(axes, "x")
    axes.grid(True, axis="x")
    for line, (bar, total) in enumerate(zip(bars, sums, strict=True)):
        begin = 0.0
        for _, value, colour in bar:
            if value:
                # No edge: one would hide what is a pixel wide.
                axes.barh(line, value, _BAR, left=begin, color=colour, linewidth=0)
            begin += value
        axes.annotate(
            short(total), (total, line), xytext=(6, 0), textcoords="offset points", va="center",
            fontsize=10,
        )  # fmt: skip


def _key(axes: Axes, bars: Sequence[Sequence[tuple[str, float, str]]], *, columns: int) -> None:
    """Name the parts in the order in which they lie."""
    handles = [
        Patch(color=colour, label=clip(name, 14), linewidth=0) for name, _, colour in bars[0]
    ]
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns,
        handlelength=0.8, handleheight=0.8, handletextpad=0.35, columnspacing=0.9,
        borderaxespad=0.3, borderpad=0.0, fontsize=9.5,
    )  # fmt: skip
