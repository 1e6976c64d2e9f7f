"""The colours of the page and of its plots: one name, one colour on light paper, one on dark.

Plots are drawn in the light colours. In the page each of them becomes a CSS variable of its name,
so one drawing serves both themes. The hues are Okabe and Ito's, which people with any colour
vision tell apart (https://jfly.uni-koeln.de/color/), darkened or lightened until text in them has
a contrast of at least 4.5 with its paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # younger than the oldest matplotlib that is meant to work
    from matplotlib.typing import RcKeyType

PAPER, INK, MUTED, RULE = "#ffffff", "#1b2026", "#58626d", "#d9dee3"
BLUE, VERMILION, GREEN, PURPLE = "#0067a5", "#b84a00", "#00795a", "#9b4283"
# Parts of a step, neighbours of unlike lightness; they fill areas and hold no text.
FILLS = ("#0072b2", "#e69f00", "#009e73", "#56b4e9", "#d55e00", "#cc79a7", "#8c959f")

# Light colour -> its name in CSS, and the colour on dark paper.
COLOURS = {
    PAPER: ("paper", "#14171b"),
    INK: ("ink", "#e7eaed"),
    MUTED: ("muted", "#a2acb7"),
    RULE: ("rule", "#333a43"),
    BLUE: ("blue", "#6fb6ee"),
    VERMILION: ("vermilion", "#f5935a"),
    GREEN: ("green", "#4fc7a1"),
    PURPLE: ("purple", "#dd95c8"),
    FILLS[0]: ("fill-1", "#3d9bdc"),
    FILLS[1]: ("fill-2", "#f0b73a"),
    FILLS[2]: ("fill-3", "#2fb88d"),
    FILLS[3]: ("fill-4", "#8fd0f5"),
    FILLS[4]: ("fill-5", "#ee7d33"),
    FILLS[5]: ("fill-6", "#dd9abf"),
    FILLS[6]: ("fill-7", "#79828c"),
}

# matplotlib's settings while a plot is drawn; the user's own file of settings does not count.
SETTINGS: dict[RcKeyType, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so a PNG is the same everywhere
    "font.size": 11.0,
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": PAPER,
    "figure.dpi": 72.0,  # so that a point is a pixel of the page
    "savefig.facecolor": PAPER,
    "patch.edgecolor": INK,
    "lines.color": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 10.0,
    "ytick.labelsize": 10.0,
    "legend.frameon": False,
    "legend.fontsize": 10.0,
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and copied
    "svg.hashsalt": "edgellama",  # the same document gives the same bytes
}


def css_variables(*, dark: bool) -> str:
    """Return the declarations of all colours for one theme."""
    return " ".join(
        f"--{name}: {other if dark else light};" for light, (name, other) in COLOURS.items()
    )


def css_name(colour: str) -> str:
    """Return how CSS refers to a light colour; the plots use no other colours."""
    assert colour in COLOURS, f"{colour} is not in the table of colours"
    return f"var(--{COLOURS[colour][0]})"
