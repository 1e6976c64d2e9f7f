"""The page of a run, whole and in one file, and its plots beside it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from edgellama.benchmark.report.document import Run, read_run
from edgellama.benchmark.report.facts import facts
from edgellama.benchmark.report.headline import headline
from edgellama.benchmark.report.notices import notices
from edgellama.benchmark.report.number import TIMES, number, percent, size
from edgellama.benchmark.report.peer_plot import draw_peers
from edgellama.benchmark.report.percentile_plot import cell_name, draw_percentiles
from edgellama.benchmark.report.rate_plot import arrivals_name, draw_rates
from edgellama.benchmark.report.render import Draw, Plot, render_plot
from edgellama.benchmark.report.roofline import draw_roofline
from edgellama.benchmark.report.serve_part import ServePart
from edgellama.benchmark.report.step_plot import draw_steps
from edgellama.benchmark.report.terms import TERMS
from edgellama.benchmark.report.theme import css_variables

Report = Callable[[str, int, int], None]
PAGE_NAME = "report.html"
# File of a plot -> what it shows, for those who do not see it, and who draws it.
PLOTS: dict[str, tuple[str, Draw]] = {
    "roofline": ("Roofline: operations per byte against GFLOP/s", draw_roofline),
    "percentiles": ("Percentiles of TTFT and ITL by cell", draw_percentiles),
    "step-split": ("Milliseconds of a step by part", draw_steps),
    "rate-sweep": ("Goodput, TTFT and TPOT by offered rate", draw_rates),
    "peers": ("Other systems as ratios to this engine", draw_peers),
}


def write_report(
    document: Mapping[str, Any], folder: Path, *, report: Report | None = None
) -> list[Path]:
    """Write `report.html` and a PNG a plot into a folder, which is made; returns the files.

    All of it is made before the first file is replaced, each of them at once; plots of an earlier
    report that this run has nothing for are removed. Raises DocumentError or OSError.
    """
    run = read_run(document)
    plots = {}
    for done, (name, (alt, draw)) in enumerate(PLOTS.items()):
        if report is not None:
            report("plots", done, len(PLOTS))
        plot = render_plot(name, draw, run, alt=alt, footer=_footer(run))
        if plot is not None:
            plots[name] = plot
    if report is not None:
        report("plots", len(PLOTS), len(PLOTS))
    files = {f"{name}.png": plot.png for name, plot in plots.items()}
    files[PAGE_NAME] = page(run, document, plots).encode()
    folder.mkdir(parents=True, exist_ok=True)
    _replace_all(folder, files)
    for name in PLOTS:
        if name not in plots:
            (folder / f"{name}.png").unlink(missing_ok=True)
    return [folder / name for name in files]


def _replace_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all files beside their places, then move them there."""
    staging = Path(tempfile.mkdtemp(dir=folder, prefix=".report-"))
    try:
        for name, content in files.items():
            (staging / name).write_bytes(content)
        for name in files:
            os.replace(staging / name, folder / name)
    finally:
        shutil.rmtree(staging)


def page(run: Run, document: Mapping[str, Any], plots: Mapping[str, Plot]) -> str:
    """Return the HTML; every text of the document is escaped, the plots are our own."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = environment.get_template("page.css").render(
        light=css_variables(dark=False), dark=css_variables(dark=True)
    )
    return environment.get_template("page.html.jinja").render(
        run=run,
        latency=run.latency,
        serve=run.serve,
        peers=run.peers,
        plots=plots,
        style=style,
        where=_footer(run),
        contents=_contents(run),
        notices=notices(run),
        tiles=headline(run),
        parts=_parts(run),
        terms=TERMS,
        document=json.dumps(document, indent=1, ensure_ascii=False),
        **_all_facts(run),
        **_WORDS,
    )


_WORDS: dict[str, Any] = {
    "number": number,
    "percent": percent,
    "size": size,
    "times": TIMES,
    "ratio": lambda value: number(value) if value is None else f"{value:.3f}",
    "cell_name": cell_name,
    "open_name": lambda row: f"{number(row.offered_per_s)} {arrivals_name(row)}",
    "closed_name": lambda row: number(row.concurrency),
    "overload_name": lambda row: number(row.offered_per_s),
    "settings": lambda raw: "; ".join(f"{name} {text}".strip() for name, text in facts(raw)),
}


def _footer(run: Run) -> str:
    """Return what was measured, where and when, in one line."""
    machine = [run.environment.get(name) for name in ("cpu", "cores")]
    cores = f"{machine[1]} cores" if machine[1] is not None else ""
    return ", ".join(str(one) for one in (run.engine, machine[0], cores, run.when) if one)


def _parts(run: Run) -> list[str]:
    """Return the parts of a step that any cell has."""
    rows = (run.latency.requests if run.latency else None) or ()
    return list(dict.fromkeys(name for row in rows for name in row.split))


def _contents(run: Run) -> list[tuple[str, str]]:
    """Return the sections that the page has."""
    latency = run.latency
    there = {
        "ceilings": ("Ceilings", latency and (latency.ceilings or latency.steps)),
        "latency": ("Latency", latency and latency.requests),
        "load": ("Under load", run.serve),
        "peers": ("Other systems", run.peers),
        "accuracy": ("Accuracy", run.accuracy),
        "counts": ("Instructions", run.counts),
        "repeat": ("Repeat it", True),
        "terms": ("Words", True),
        "document": ("Document", True),
    }
    return [(name, title) for name, (title, found) in there.items() if found]


def _all_facts(run: Run) -> dict[str, list[tuple[str, str]]]:
    """Return the lists of facts of the page, by their names in the template."""
    latency, serve, peers, counts = run.latency, run.serve, run.peers, run.counts
    found: dict[str, object] = {
        "run_facts": {"engine": run.engine, "profile": run.profile, "measured": run.when},
        "machine_facts": run.environment,
        "latency_facts": latency and {
            "model": latency.model,
            "precision": latency.precision,
            "threads": latency.threads,
            "rounds": latency.rounds,
            "seed": latency.seed,
            "load_seconds": latency.load_seconds,
            "peak_resident_bytes": latency.peak_rss_bytes,
            "device_memory_bytes": latency.device_memory_bytes,
            "energy_J_per_token": latency.energy_j_per_token,
        },
        "serve_facts": serve and {
            "target": serve.target,
            "model": serve.model,
            "lengths": serve.lengths,
            "workload": serve.workload,
            "slots": serve.slots,
            "seconds_a_load": serve.seconds,
            "seed": serve.seed,
            "SLO_TTFT_ms": serve.slo and serve.slo.ttft_ms,
            "SLO_ITL_ms": serve.slo and serve.slo.itl_ms,
            "SLO_from": serve.slo and serve.slo.source,
            "knee_requests_per_s": serve.knee and serve.knee.requests_per_s,
            "in_time_at_the_knee": serve.knee and percent(serve.knee.goodput_fraction),
            "saturation_requests_per_s": serve.saturation_requests_per_s,
        },
        "tax_facts": serve and _tax(serve),
        "peer_facts": peers and {
            "size": peers.size, "model": peers.model, "rounds": peers.rounds, "seed": peers.seed,
            "threads": peers.threads, "minutes": peers.minutes,
        },
        "count_facts": counts and {"work": counts.work, **(counts.versions or {})},
    }  # fmt: skip
    return {name: list(facts(raw)) for name, raw in found.items()}


def _tax(serve: ServePart) -> dict[str, object]:
    """Return what gRPC and the load driver cost."""
    measured, driver = dict(serve.tax or {}), serve.driver
    found: dict[str, object] = {
        "gRPC adds to a first token, ms": measured.pop("ttft_ms", None),
        "gRPC adds to a token, us": measured.pop("us_per_token", None),
        **measured,
    }
    if driver is not None:
        cost = None if driver.us_per_token is None else vars(driver.us_per_token)
        found["load driver, us per token"] = cost
        found["load driver, of the smallest figure"] = percent(driver.share_of_smallest)
    return found
