"""The paper of a plot, measured in pixels of the page from the top left corner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from edgellama.benchmark.report.number import short
from edgellama.benchmark.report.theme import INK, MUTED

_FOOTER = 24  # pixels below the plot
_POINTS = 72  # of an inch: a pixel is a point


@dataclass(frozen=True)
class Sheet:
    """How wide a plot may be; a footer is drawn where a plot stands without its page."""

    width: int
    footer: str = ""

    @property
    def narrow(self) -> bool:
        """Whether it is for a phone."""
        return self.width < 600

    def drawing(self, height: float, title: str) -> Drawing:
        """Return an empty drawing with its title."""
        return Drawing(self, height, title)


class Drawing:
    """A figure of matplotlib whose places are pixels; `height` is without the footer."""

    def __init__(self, sheet: Sheet, height: float, title: str) -> None:
        self.width = sheet.width
        self.height = height + (_FOOTER if sheet.footer else 0)
        self.figure = Figure(figsize=(self.width / _POINTS, self.height / _POINTS))
        self.canvas = FigureCanvasAgg(self.figure)
        self.text(0, 13, title, size=13, weight="bold")
        if sheet.footer:
            self.text(0, self.height - 4, sheet.footer, size=8.5, color=MUTED)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Return axes whose box has this place; ticks and labels are outside of it."""
        bottom = self.height - top - height
        box = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def text(self, x: float, y: float, text: str, *, size: float = 11, **more: Any) -> None:
        """Write a text whose baseline starts at the place."""
        place = x / self.width, 1 - y / self.height
        more = {"color": INK, "va": "baseline", **more}
        self.figure.text(*place, text, fontsize=size, **more)


def text_width(text: str, size: float = 11, weight: str = "normal") -> float:
    """Return how many pixels a text takes."""
    if not text.strip():
        return 0.0
    font = FontProperties(family="DejaVu Sans", weight=weight)
    return float(TextPath((0, 0), text, size=size, prop=font).get_extents().x1)


def heading(axes: Axes, text: str, *, rise: float = 10, left: float = 0) -> None:
    """Write what an axis shows, and its unit, above the axes: `rise` pixels up, `left` to the left.

    It is read without turning the head, and costs no width.
    """
    axes.annotate(
        text, (0, 1), xycoords="axes fraction", xytext=(-left, rise), textcoords="offset points",
        color=MUTED, fontsize=10.5, va="baseline", ha="left",
    )  # fmt: skip


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Return round numbers on a logarithmic scale, at most `most`: 1, 2, 5 or powers of ten."""
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    for digits in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 4, 6, 8), (1, 2, 5), (1, 3), (1,)):
        ticks = [d * 10.0**e for e in decades for d in digits if low <= d * 10.0**e <= high]
        if len(ticks) <= most:
            return ticks
    step = -(-len(ticks) // most)
    return ticks[::step]


def set_log(axes: Axes, which: str, low: float, high: float, most: int) -> None:
    """Make an axis, `x` or `y`, logarithmic over a range, with few and plain numbers."""
    getattr(axes, f"set_{which}scale")("log")
    getattr(axes, f"set_{which}lim")(low, high)
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(FixedLocator(log_ticks(low, high, most)))
    axis.set_minor_locator(NullLocator())
    plain(axes, which)


def widened(low: float, high: float, width: float, margin: float) -> tuple[float, float]:
    """Return a logarithmic range with `margin` pixels more at both ends of an axis of `width`."""
    low, high = (low / 1.05, high * 1.05) if high < 1.1 * low else (low, high)
    factor = (high / low) ** (margin / (width - 2 * margin))
    return low / factor, high * factor


def plain(axes: Axes, which: str, form: Callable[[float], str] = short) -> None:
    """Write the numbers of an axis in full, thousands apart."""
    getattr(axes, f"{which}axis").set_major_formatter(FuncFormatter(lambda value, _: form(value)))
