"""Labels beside points: each at the nearest place where it covers nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes

from edgellama.benchmark.report.sheet import text_width
from edgellama.benchmark.report.theme import MUTED

_HEIGHT = 12.0  # of a line of text, in pixels
_STRAIGHT = ((1, 0), (-1, 0), (0, 1), (0, -1))
_SLANTED = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0.3, 1), (0.3, -1), (-0.3, 1), (-0.3, -1))
_DISTANCES = (7, 14, 24, 36, 52, 70, 90)
_LEADER_FROM = 20  # pixels: a label that is farther off is tied to its point by a line


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the figure, from the bottom left."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: Box) -> bool:
        """Whether they share a pixel."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )

    def holds(self, x: float, y: float) -> bool:
        """Whether a point lies in it."""
        return self.left <= x <= self.right and self.bottom <= y <= self.top

    def within(self, other: Box) -> bool:
        """Whether all of it lies in the other."""
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.bottom <= self.bottom
            and self.top <= other.top
        )


@dataclass(frozen=True)
class Label:
    """A text and the point, in data units, that it belongs to."""

    x: float
    y: float
    text: str
    colour: str


def pixels(axes: Axes, x: float, y: float) -> tuple[float, float]:
    """Return where a point lies, in pixels from the bottom left of the figure."""
    found = axes.transData.transform((x, y))
    return float(found[0]), float(found[1])


def box_of(axes: Axes) -> Box:
    """Return the inside of the axes in pixels."""
    found = axes.get_window_extent()
    return Box(float(found.x0), float(found.y0), float(found.x1), float(found.y1))


def around(axes: Axes, x: float, y: float, radius: float = 5) -> Box:
    """Return the square that a marker covers."""
    px, py = pixels(axes, x, y)
    return Box(px - radius, py - radius, px + radius, py + radius)


def along(axes: Axes, points: Sequence[tuple[float, float]], radius: float = 3) -> list[Box]:
    """Return small squares along a line in data units, so that no label lies on it."""
    return squares([pixels(axes, *point) for point in points], radius)


def squares(corners: Sequence[tuple[float, float]], radius: float) -> list[Box]:
    """Return squares along a line that is given in pixels."""
    found = []
    for (ax, ay), (bx, by) in pairwise(corners):
        steps = max(1, int(max(abs(bx - ax), abs(by - ay)) / (2 * radius)))
        for i in range(steps + 1):
            x, y = ax + (bx - ax) * i / steps, ay + (by - ay) * i / steps
            found.append(Box(x - radius, y - radius, x + radius, y + radius))
    return found


def place_labels(
    axes: Axes, labels: Sequence[Label], taken: Sequence[Box], *, size: float = 10
) -> None:
    """Write every label; where no place is free, the one that covers the least is taken."""
    inside = box_of(axes)
    boxes = list(taken)
    for label in labels:
        px, py = pixels(axes, label.x, label.y)
        width = text_width(label.text, size) + 3
        best: tuple[float, Box] | None = None
        for distance in _DISTANCES:
            for dx, dy in (*_STRAIGHT, *_SLANTED):
                box = _beside(px, py, dx * distance, dy * distance, width)
                if not box.within(inside):
                    continue
                cost = 200.0 * sum(box.overlaps(other) for other in boxes) + distance
                line = _leader_boxes(box, px, py)
                # The line starts within its own marker, which is not in its way.
                others = [b for b in boxes if not b.holds(px, py)] if line else []
                cost += 70.0 * any(s.overlaps(b) for s in line for b in others)
                if best is None or cost < best[0]:
                    best = cost, box
        if best is None:  # the axes are smaller than the label
            best = 0.0, _beside(px, py, _DISTANCES[0], 0, width)
        boxes.append(best[1])
        _write(axes, label, best[1], (px, py), size)
        boxes += _leader_boxes(best[1], px, py)


def _leader(box: Box, px: float, py: float) -> tuple[float, float] | None:
    """Return where the line from a point meets its label; None where it needs none."""
    edge = min(max(px, box.left), box.right), min(max(py, box.bottom), box.top)
    return edge if math.hypot(edge[0] - px, edge[1] - py) > _LEADER_FROM else None


def _leader_boxes(box: Box, px: float, py: float) -> list[Box]:
    end = _leader(box, px, py)
    return [] if end is None else squares(((px, py), end), 2)


def _beside(px: float, py: float, dx: float, dy: float, width: float) -> Box:
    """Return the box of a text that is moved from a point; straight up it is centred on it."""
    left = px + dx if dx > 0 else px + dx - width if dx < 0 else px - width / 2
    middle = py + dy + (_HEIGHT / 2 if dy > 0 else -_HEIGHT / 2 if dy < 0 else 0)
    return Box(left, middle - _HEIGHT / 2, left + width, middle + _HEIGHT / 2)


def _write(axes: Axes, label: Label, box: Box, point: tuple[float, float], size: float) -> None:
    px, py = point
    middle = (box.bottom + box.top) / 2
    end = _leader(box, px, py)
    if end is not None:
        back = axes.transData.inverted().transform(end)
        axes.plot([label.x, back[0]], [label.y, back[1]], color=MUTED, linewidth=0.6, zorder=1.5)
    axes.annotate(
        label.text, (label.x, label.y), xytext=(box.left + 1.5 - px, middle - py),
        textcoords="offset points", color=label.colour, fontsize=size, va="center", ha="left",
    )  # fmt: skip
