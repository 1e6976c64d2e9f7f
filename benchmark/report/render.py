"""A plot as inline SVG for the page, in two widths, and as PNG."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as tree
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

from edgellama.benchmark.report.document import Run
from edgellama.benchmark.report.sheet import Sheet
from edgellama.benchmark.report.theme import SETTINGS, css_name

Draw = Callable[[Run, Sheet], Figure | None]
WIDE, NARROW = 920, 358  # pixels: a page at a desk, a phone of 390 with its margins
_PNG_DPI = 180
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FONT_FAMILY = re.compile(r"\s*font-family:[^;]*;?")
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


@dataclass(frozen=True)
class Plot:
    """One plot: `name` is that of its file, the SVGs take their colours from the page."""

    name: str
    wide: str
    narrow: str
    png: bytes


def render_plot(name: str, draw: Draw, run: Run, *, alt: str, footer: str) -> Plot | None:
    """Draw a plot for the page and for a file; None where the run has nothing for it."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # without the settings of the user's own file
        matplotlib.rcParams.update(SETTINGS)
        wide = draw(run, Sheet(WIDE))
        narrow = draw(run, Sheet(NARROW))
        alone = draw(run, Sheet(WIDE, footer))
        if wide is None or narrow is None or alone is None:
            return None
        return Plot(
            name,
            _inline(wide, f"{name}-wide", alt),
            _inline(narrow, f"{name}-narrow", alt),
            _png(alone),
        )


def _png(figure: Figure) -> bytes:
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=_PNG_DPI, metadata={"Software": None})
    return written.getvalue()


def _inline(figure: Figure, prefix: str, alt: str) -> str:
    """Return an `svg` element: colours from the page, ids of its own, no address of a schema."""
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata=_NO_METADATA)
    root = tree.fromstring(written.getvalue())
    for parent in root.iter():
        for child in list(parent):
            if _plain_name(child.tag) in ("style", "metadata"):  # a style would be the page's too
                parent.remove(child)
    for element in root.iter():
        element.tag = _plain_name(element.tag)
        attributes = {_plain_name(key): value for key, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update(
            {key: _attribute(key, value, prefix) for key, value in attributes.items()}
        )
    _, _, width, height = root.attrib["viewBox"].split()
    kept = {"viewBox": root.attrib["viewBox"], "width": width, "height": height}
    root.attrib.clear()
    root.attrib.update({**kept, "role": "img", "aria-label": alt})
    return tree.tostring(root, encoding="unicode", short_empty_elements=False)


def _plain_name(name: str) -> str:
    """Return a name without its namespace, which HTML knows by itself."""
    return name.rpartition("}")[2]


def _attribute(key: str, value: str, prefix: str) -> str:
    """Return an attribute that works in a page with other plots."""
    if key == "id":
        return f"{prefix}-{value}"
    if key == "href":
        return f"#{prefix}-{value.removeprefix('#')}"
    value = _REFERENCE.sub(rf"url(#{prefix}-\1)", value)
    if key == "style":
        value = _FONT_FAMILY.sub("", value)
        return _COLOUR.sub(lambda found: css_name(found.group().lower()), value)
    return value
