"""The page: whole, alone, and with every figure of the run."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from edgellama.benchmark.report.number import number, percent, size
from edgellama.benchmark.report.page import PLOTS, write_report
from edgellama.benchmark.report.theme import COLOURS

sys.path.insert(0, str(Path(__file__).parent))

from example_run import full_run, least_run

# Not on the page but in the document at its end: the ends of a spread.
NOT_SHOWN = {"low", "high", "schema_version", "source"}
HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;$\\frac{"


class Page(HTMLParser):
    """What a page has: elements with their attributes, and the text of its body."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in ("meta", "br", "img", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if not {"style", "svg"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    write_report(full_run(), out)
    return out


@pytest.fixture(scope="module")
def source(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def figures(raw: object, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a document with the key that it has."""
    if isinstance(raw, dict):
        for key, value in raw.items():
            yield from figures(value, key)
    elif isinstance(raw, list):
        for value in raw:
            yield from figures(value, name)
    elif isinstance(raw, int | float) and not isinstance(raw, bool) and name not in NOT_SHOWN:
        yield name, raw


def forms(value: float) -> set[str]:
    """How a number may stand on the page."""
    return {
        number(value), number(value / 1e9), percent(value), percent(value, 2), size(value),
        f"{value:.3f}",
    }  # fmt: skip


def test_a_plot_is_a_picture(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(["report.html", *(f"{name}.png" for name in PLOTS)])
    for name in PLOTS:
        pixels = imread(BytesIO((folder / f"{name}.png").read_bytes()), format="png")
        height, width = pixels.shape[:2]
        assert width == 2300 and height > 600
        inked = np.any(pixels[..., :3] < 0.97, axis=2)
        assert 0.005 < inked.mean() < 0.5, name
        # Nothing is cut off: the right edge is empty, the left one below the title is too.
        assert not inked[:, -1].any(), name


def test_every_figure_of_the_run_is_on_the_page(source: str) -> None:
    text = Page(source.partition('<section id="document">')[0]).text
    words = set(re.findall(r"[\d,.]+\d(?: %| [kMG]?B)?|\d", text))
    run = full_run()
    found = list(figures(run))
    assert len(found) > 900
    lost = [(name, value) for name, value in found if not forms(value) & words]
    assert lost == []


def test_every_text_of_the_run_is_on_the_page(source: str) -> None:
    text = Page(source.partition('<section id="document">')[0]).text
    run = full_run()
    for word in (run["engine"], run["profile"], run["when"], run["command"], "AMD EPYC 9B45",
                 "1.31.1", "performance", "out of memory: 24 GB of 24 GB used",
                 "no wheel for this processor", "37 RESOURCE_EXHAUSTED: queue full",
                 "int4, block 32, accuracy level 4", "profile cpu-1b",
                 "valgrind-3.19.0"):  # fmt: skip
        assert word in text, word


def test_the_page_needs_nothing_else(source: str) -> None:
    page = Page(source)
    assert page.open == []
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for _, attributes in page.elements:
        for key, value in attributes.items():
            assert not key.startswith("on")
            assert "://" not in value, (key, value)
            if key in ("href", "xlink:href", "src"):
                assert value.startswith("#")
    style = source.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style and "{{" not in style


def test_every_reference_in_the_page_has_its_target(source: str) -> None:
    page = Page(source)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {
        value.removeprefix("#")
        for _, attributes in page.elements
        for key, value in attributes.items()
        if key in ("href", "xlink:href")
    }
    wanted |= set(re.findall(r"url\(#([^)]+)\)", source))
    assert wanted and wanted <= set(ids)


def test_a_plot_takes_its_colours_from_the_theme(source: str) -> None:
    plots = re.findall(r"<svg.*?</svg>", source, re.DOTALL)
    assert len(plots) == 2 * len(PLOTS)
    for plot in plots:
        for style in re.findall(r'style="([^"]*)"', plot):
            assert "#" not in style.replace("url(#", ""), style
        used = set(re.findall(r"var\(--([a-z0-9-]+)\)", plot))
        assert used <= {name for name, _ in COLOURS.values()}
        assert {"ink", "muted"} <= used
        assert "font-family" not in plot


def test_both_themes_have_every_colour(source: str) -> None:
    style = source.partition("<style>")[2].partition("</style>")[0]
    light, _, rest = style.partition("@media screen and (prefers-color-scheme: dark)")
    for colour, (name, dark) in COLOURS.items():
        assert f"--{name}: {colour};" in light
        assert f"--{name}: {dark};" in rest


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_text_is_readable_on_its_paper() -> None:
    papers = next((light, dark) for light, (name, dark) in COLOURS.items() if name == "paper")
    for light, (name, dark) in COLOURS.items():
        least = 1.2 if name == "rule" else 2.0 if name.startswith("fill") else 4.5
        if name == "paper":
            continue
        for colour, paper in ((light, papers[0]), (dark, papers[1])):
            high, low = sorted((luminance(colour), luminance(paper)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= least, (name, colour)


def hostile(raw: Any) -> Any:
    """The same document with every text that may be any text replaced."""
    kept = {"kind", "work", "matrix_used", "arrivals"}
    if isinstance(raw, dict):
        return {key: value if key in kept else hostile(value) for key, value in raw.items()}
    if isinstance(raw, list):
        return [hostile(value) for value in raw]
    return HOSTILE if isinstance(raw, str) else raw


def test_hostile_texts_are_only_text(tmp_path: Path) -> None:
    run = hostile(full_run())
    run["peers"]["systems"][0]["settings"] = {HOSTILE: [HOSTILE]}
    run["serve"]["open"][0]["arrivals"] = HOSTILE
    run["serve"]["open"][0]["errors"] = {HOSTILE: 3}
    run["latency"]["requests"][0]["step_ms"][HOSTILE] = 0.5
    run["latency"]["ceilings"]["matrix_gops"][HOSTILE] = run["latency"]["ceilings"]["read_gb_s"]
    run["counts"]["instructions"][HOSTILE] = 7
    run["environment"]["packages"][HOSTILE] = "\x00\x1b[31m\ud7ff \u202e"
    run["environment"]["warnings"] = [HOSTILE]
    write_report(run, tmp_path)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(source)
    assert not {tag for tag, _ in page.elements} & {"script", "img"}
    assert not any(key.startswith("on") for _, found in page.elements for key in found)
    assert source.count(html.escape("<script>alert(1)").replace("&#x27;", "&#39;")) > 20
    assert HOSTILE in page.text


def test_a_run_without_parts_has_no_empty_section(tmp_path: Path) -> None:
    assert write_report(least_run(), tmp_path) == [tmp_path / "report.html"]
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(source)
    assert re.findall(r'<section id="([a-z]+)"', source) == ["repeat", "terms", "document"]
    assert re.findall(r'<a href="#([a-z]+)"', source) == ["repeat", "terms", "document"]
    assert not {"table", "svg", "figure"} & {tag for tag, _ in page.elements}
    assert "Before you read" not in page.text
    for heading in re.findall(r"<h[23]>.*?</h[23]>\s*<", source):
        assert not heading.endswith(("<h2", "<h3"))


@pytest.mark.parametrize("part", ["latency", "serve", "peers", "counts", "accuracy"])
def test_one_part_is_enough(part: str, tmp_path: Path) -> None:
    files = write_report(least_run() | {part: full_run()[part]}, tmp_path)
    drawn = {"latency": 3, "serve": 1, "peers": 1}.get(part, 0)
    assert len(files) == 1 + drawn
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "None" not in page.text.partition("The document")[0]


def test_an_empty_table_is_left_out(tmp_path: Path) -> None:
    run = full_run()
    run["latency"] |= {"requests": [], "steps": [], "ceilings": None}
    run["serve"] |= {"open": [], "closed": [], "overload": None, "interference": None}
    run["serve"] |= {"tax": None, "driver": None, "slo": None, "knee": None}
    run["peers"] |= {"rows": [], "systems": []}
    run["accuracy"] = {}
    run["counts"]["work"] = {}
    files = write_report(run, tmp_path)
    assert files == [tmp_path / "report.html"]
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert source.count("<table>") == 1  # of the instructions
    assert "<tbody></tbody>" not in source and '<dl class="facts"></dl>' not in source


def test_plots_of_an_earlier_report_do_not_stay(tmp_path: Path) -> None:
    write_report(full_run(), tmp_path)
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    write_report(least_run(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "run.json"]


def test_the_same_run_gives_the_same_files(tmp_path: Path, folder: Path) -> None:
    for path in write_report(full_run(), tmp_path):
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


def test_a_refused_run_leaves_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kind"):
        write_report({"kind": "serve"}, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


INTERRUPTED = """
import json, os, signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
from edgellama.benchmark.report import page
replace, moved = os.replace, []

def slow(source, target):
    if len(moved) == 2:
        os.kill(os.getpid(), signal.SIGINT)
    moved.append(target)
    replace(source, target)

page.os.replace = slow
page.write_report(json.loads(sys.stdin.read()), Path(sys.argv[1]))
"""


def test_an_interrupted_report_leaves_whole_files(tmp_path: Path, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)],
        input=json.dumps(full_run()), capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == -signal.SIGINT, done.stderr
    left = sorted(tmp_path.iterdir())
    assert len(left) == 2
    for path in left:
        assert path.read_bytes() == (folder / path.name).read_bytes()
