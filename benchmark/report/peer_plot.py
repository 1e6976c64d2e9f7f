"""Other systems as ratios to ours: a line for each, its spread as whiskers, 1 marked."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edgellama.benchmark.report.document import Run
from edgellama.benchmark.report.figures import Series
from edgellama.benchmark.report.number import TIMES, clip
from edgellama.benchmark.report.peers_part import PeerRow
from edgellama.benchmark.report.sheet import Sheet, set_log, text_width
from edgellama.benchmark.report.theme import BLUE, INK, MUTED, PAPER, VERMILION

_LINE, _BETWEEN = 18, 12  # pixels a row, and between cells
_TOP, _BOTTOM = 70, 26
_NUMBER = 52  # pixels for the ratio at the right
_GAP = 36  # between columns
_ON_PAPER = {"facecolor": PAPER, "linewidth": 0, "pad": 1.0}
Cells = list[tuple[str, list[PeerRow]]]


def draw_peers(run: Run, sheet: Sheet) -> Figure | None:
    """Draw every row that has a ratio, or an error, below the name of its cell; None for none."""
    if run.peers is None:
        return None
    cells = {name: [row for row in rows if _is_shown(row)] for name, rows in
             run.peers.by_cell.items()}  # fmt: skip
    cells = {name: rows for name, rows in cells.items() if rows}
    ratios = [row.ratio_to_ours for rows in cells.values() for row in rows if row.ratio_to_ours]
    if not ratios:
        return None
    columns = _columns(cells, 1 if sheet.narrow or len(cells) < 3 else 2)
    body = max(map(_height, columns))
    drawing = sheet.drawing(_TOP + body + _BOTTOM, "Other systems, as a ratio to this engine")
    longest = 20 if sheet.narrow else 24
    names = {clip(row.system, longest) for rows in cells.values() for row in rows}
    left = max(text_width(name, 10.5) for name in names) + 24
    low, high = min(r.low for r in ratios), max(r.high for r in ratios)
    limits = min(low / 1.15, 0.75), max(high * 1.15, 1.33)
    width = (sheet.width - _GAP * (len(columns) - 1)) / len(columns)
    for place, column in enumerate(columns):
        start = place * (width + _GAP)
        tall = _height(column)
        axes = drawing.axes(start + left, _TOP, width - left - _NUMBER, tall)
        set_log(axes, "x", *limits, 5)
        axes.set_ylim(tall, 0)
        _style(axes)
        y = _LINE / 2
        for name, rows in column:
            drawing.text(start, _TOP + y + 4, name, size=10.5, weight="bold", bbox=_ON_PAPER)
            for row in rows:
                y += _LINE
                drawing.text(start + 12, _TOP + y + 4, clip(row.system, longest), size=10.5)
                _row(axes, y, row)
            y += _LINE + _BETWEEN
    return drawing.figure


def _height(column: Cells) -> float:
    """Return the pixels that a column of cells takes."""
    return sum(_LINE * (1 + len(rows)) for _, rows in column) + _BETWEEN * (len(column) - 1)


def _columns(cells: dict[str, list[PeerRow]], wanted: int) -> list[Cells]:
    """Return the cells in one or two columns of about the same height, in their order."""
    found = list(cells.items())
    if wanted == 1:
        return [found]
    cuts = range(1, len(found))
    cut = min(cuts, key=lambda i: max(_height(found[:i]), _height(found[i:])))
    return [found[:cut], found[cut:]]


def _style(axes: Axes) -> None:
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="x", length=0, labeltop=True, labelbottom=True)
    axes.grid(True, axis="x")
    axes.axvline(1, color=INK, linewidth=1.4, zorder=1.8)
    _sides(axes)


def _is_shown(row: PeerRow) -> bool:
    """Whether a row says anything beside ours: ours has no ratio to itself."""
    return row.ratio_to_ours is not None or row.error is not None


def colour_of(ratio: Series) -> str:
    """Return blue where they are slower, vermilion where faster, grey where the spread holds 1."""
    if ratio.low <= 1 <= ratio.high:
        return MUTED
    return BLUE if ratio.high < 1 else VERMILION


def _sides(axes: Axes) -> None:
    """Say which side of 1 is which, above the axes."""
    for text, colour, side, away in (
        ("slower", BLUE, "right", -8),
        ("faster", VERMILION, "left", 8),
    ):
        axes.annotate(
            text, (1, 1), xycoords=("data", "axes fraction"), xytext=(away, 24), color=colour,
            textcoords="offset points", ha=side, fontsize=10.5,
        )  # fmt: skip


def _row(axes: Axes, y: float, row: PeerRow) -> None:
    ratio = row.ratio_to_ours
    if ratio is None:
        reason = clip(row.error, 34)
        axes.annotate(
            reason, (0, y), xycoords=("axes fraction", "data"), xytext=(4, 0), va="center",
            textcoords="offset points", fontsize=9.5, color=MUTED, style="italic",
            bbox=_ON_PAPER,
        )  # fmt: skip
        return
    colour = colour_of(ratio)
    axes.plot([ratio.low, ratio.high], [y, y], color=colour, linewidth=1.6)
    for end in (ratio.low, ratio.high):
        axes.plot([end], [y], "|", color=colour, markersize=8, markeredgewidth=1.2)
    axes.plot([ratio.median], [y], "o", color=colour, markersize=5.5, markeredgewidth=0)
    axes.annotate(
        f"{ratio.median:.2f} {TIMES}", (1, y), xycoords=("axes fraction", "data"),
        xytext=(_NUMBER - 2, 0), textcoords="offset points", ha="right", va="center", fontsize=10.5,
        color=colour, annotation_clip=False,
    )  # fmt: skip
