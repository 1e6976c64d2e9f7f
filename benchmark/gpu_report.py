"""The two files of a verification: JSON for machines, Markdown for people."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgellama.benchmark.outcome import FAILED, PASSED, SKIPPED, Outcome
from edgellama.benchmark.verify_gpu import Verification

JSON_NAME, MARKDOWN_NAME = "verify-gpu.json", "verify-gpu.md"


def write_reports(verification: Verification, out: Path) -> None:
    """Write both files into a folder, which is made; each is replaced at once."""
    out.mkdir(parents=True, exist_ok=True)
    document = json.dumps(verification.as_dict(), indent=2, ensure_ascii=False)
    _replace(out / JSON_NAME, document + "\n")
    _replace(out / MARKDOWN_NAME, as_markdown(verification))


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(name).chmod(0o644)  # a temporary file is for its owner only
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def as_markdown(verification: Verification) -> str:
    """Return the report: the sentence, the machine, then failed, passed and skipped checks."""
    proves = {check.name: check.proves for check in verification.checks}
    by_state = {
        state: [outcome for outcome in verification.outcomes if outcome.state == state]
        for state in (FAILED, PASSED, SKIPPED)
    }
    parts = [
        "# Verification on a GPU",
        verification.summary,
        f"{verification.began}, {verification.seconds:.0f} s. The figures are in "
        f"[{JSON_NAME}]({JSON_NAME}).",
        *_section("Machine", ("what", "found"), machine_rows(verification.machine)),
        *_section("Failed", ("check", "engine", "reason"), map(_told, by_state[FAILED])),
        *_logs(by_state[FAILED]),
        *_section(
            "Passed",
            ("check", "engine", "seconds", "proves", "figures"),
            [
                (o.check, o.subject or "-", f"{o.seconds:.1f}", proves[o.check], headline(o))
                for o in by_state[PASSED]
            ],
        ),
        *_section("Skipped", ("check", "engines", "reason"), skipped_rows(by_state[SKIPPED])),
    ]
    return "\n\n".join(parts) + "\n"


def _told(outcome: Outcome) -> tuple[str, str, str]:
    return outcome.check, outcome.subject or "-", outcome.reason


def _section(title: str, heads: Sequence[str], rows: Any) -> list[str]:
    """Return a heading and a table; nothing for a table without rows."""
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    if not lines:
        return []
    top = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return [f"## {title}", "\n".join([*top, *lines])]


def _cell(text: str) -> str:
    """Return a text that stays within its cell."""
    return " ".join(text.split()).replace("|", "\\|")


def _logs(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the end of each failed check's output, indented: it may hold any sign."""
    return [
        f"### Output of {' '.join(filter(None, (o.check, o.subject)))}\n\n"
        + "\n".join(f"    {line}" for line in o.log.splitlines())
        for o in outcomes
        if o.log
    ]


def machine_rows(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is known of the machine, a line each."""
    if not figures:
        return []
    gpu = figures["gpu"]
    rows = [("GPU", figures["no_gpu"] or "")]
    if gpu is not None:
        rows = [
            ("GPU", f"{gpu['name']}, compute capability {gpu['compute_capability']}"),
            ("free memory", f"{gpu['available_bytes'] / 2**30:.2f} GiB"),
            ("CUDA of the driver", gpu["driver_cuda"]),
        ]
    for name, found in figures["libraries"].items():
        rows.append((name, found.get("version") or found["missing"]))
    rows += list(figures["versions"].items())
    rows += [("python", figures["python"]), ("system", figures["system"])]
    smi = figures["nvidia_smi"]
    for index, row in enumerate(smi.get("gpus", ())):
        rows.append((f"nvidia-smi {index}", ", ".join(f"{k} {v}" for k, v in row.items())))
    if "missing" in smi:
        rows.append(("nvidia-smi", smi["missing"]))
    return rows


def skipped_rows(outcomes: Sequence[Outcome]) -> list[tuple[str, str, str]]:
    """Return the skipped checks; engines that were skipped for one reason share a line."""
    engines: dict[tuple[str, str], list[str]] = {}
    for outcome in outcomes:
        engines.setdefault((outcome.check, outcome.reason), []).append(outcome.subject or "-")
    return [(check, ", ".join(names), reason) for (check, reason), names in engines.items()]


def headline(outcome: Outcome) -> str:
    """Return the figures that are worth a glance; a check that is not listed has none."""
    figures = outcome.figures
    if outcome.check == "cuda":
        return (
            f"{figures['copy_gb_s']:g} GB/s on the GPU, {figures['to_device_gb_s']:g} to it, "
            f"{figures['to_host_gb_s']:g} from it"
        )
    if outcome.check == "build":
        return (
            f"{figures['seconds']:.1f} s, again {figures['second']['seconds']:.1f} s, plan "
            f"{figures['plan_bytes'] / 1e6:.1f} MB, peak {figures['peak_rss_bytes'] / 1e9:.2f} GB"
        )
    if outcome.check == "numerics":
        found = figures["expectation"]
        return (
            f"greedy {100 * found['greedy_agreement']:.1f} %, KL {found['kl_mean']:.2e}, largest "
            f"error {found['max_abs_logit_error']:.3g} of {found['max_abs_logit']:.3g}"
        )
    if outcome.check == "agreement":
        return f"largest difference {figures['largest_difference']:.2e} of the largest logit"
    if outcome.check == "serving":
        return f"{figures['same']} of {figures['requests']} answers the same"
    if outcome.check == "latency":
        return "; ".join(map(_speed, figures["requests"]))
    return ""


def _speed(row: Mapping[str, Any]) -> str:
    ceiling = row["ceiling"]
    if ceiling["share"] is None:
        return f"{row['rows']} rows: no step measured"
    share = f"{100 * ceiling['share']:.0f} % of the copy bandwidth"
    return f"{row['rows']} rows: {ceiling['step_ms']:.2f} ms a token, {share}"
