"""The document of `bench serve` as lines for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgellama.cli.table import table

_HEADS = (
    "load",
    "requests",
    "req/s",
    "tokens/s",
    "TTFT p50",
    "p99 ms",
    "TPOT p50",
    "p99 ms",
    "ITL p99",
    "good",
    "errors",
)


def serve_text(document: Mapping[str, Any]) -> str:
    """Return a table of all points, and a line for each figure that follows from them."""
    rows = [_row(f"{row['concurrency']} at once", row) for row in document["closed"]]
    rows += [_row(_offer(row), row) for row in document["open"]]
    rows.append(_row(f"{document['overload']['offered_per_s']:.3g}/s (2x)", document["overload"]))
    lines = [table(_HEADS, rows), _lengths(document), _saturation(document)]
    lines += _interference(document["interference"])
    lines += _costs(document["tax"], document["driver"])
    return "\n".join(lines)


def _row(name: str, row: Mapping[str, Any]) -> Sequence[str]:
    errors = ", ".join(f"{count} {reason}" for reason, count in row["errors"].items())
    good = row["goodput_fraction"]
    return (
        name,
        str(row["requests"]),
        f"{row['requests_per_s']:.2f}",
        f"{row['output_tokens_per_s']:.0f}",
        *(_at(row["ttft_ms"], percent, 1) for percent in ("p50", "p99")),
        *(_at(row["tpot_ms"], percent, 2) for percent in ("p50", "p99")),
        _at(row["itl_ms"], "p99", 2),
        "-" if good is None else f"{good:.0%}",
        errors or "-",
    )


def _offer(row: Mapping[str, Any]) -> str:
    bursts = "" if row["arrivals"] == "poisson" else f" bursts {row['burstiness']:g}"
    return f"{row['offered_per_s']:.3g}/s{bursts}"


def _at(series: Mapping[str, Any], percent: str, digits: int) -> str:
    return f"{series[percent]:.{digits}f}" if series["n"] else "-"


def _lengths(document: Mapping[str, Any]) -> str:
    work = document["workload"]
    text = (
        f"lengths {document['lengths']}: {work['prompt_tokens_mean']:g} tokens in and "
        f"{work['output_tokens_mean']:g} out on average"
    )
    if work["clipped"]:
        text += (
            f"; {work['clipped']} of {work['pairs']} pairs were clipped to the {work['capacity']} "
            "tokens of a slot"
        )
    return text


def _saturation(document: Mapping[str, Any]) -> str:
    text = f"saturation {document['saturation_requests_per_s']:.3g} requests/s"
    if document["slo"] is None:
        return f"{text}; no SLO was given, so no goodput and no knee"
    bounds = document["slo"]
    text += f"; SLO: TTFT {bounds['ttft_ms']:g} ms, TPOT {bounds['itl_ms']:g} ms"
    if document["knee"] is None:
        return f"{text}; no rate met it for 95% of its requests"
    text += f"; knee at {document['knee']['requests_per_s']:.3g} requests/s"
    part = document["overload"]["goodput_of_knee"]
    return text if part is None else f"{text}, of whose goodput twice saturation keeps {part:.0%}"


def _interference(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return ["long prompts beside streams: not measured, the server has too little room"]
    alone, beside = found["itl_ms_alone"], found["itl_ms_with_long_prompt"]
    return [
        f"a prompt of {found['prompt_tokens']} tokens beside {found['streams']} streams: ITL p99 "
        f"{_at(alone, 'p99', 2)} -> {_at(beside, 'p99', 2)} ms"
    ]


def _costs(tax: Mapping[str, Any], driver: Mapping[str, Any]) -> list[str]:
    lines = []
    if tax["ttft_ms"] is not None:
        lines.append(
            f"gRPC costs {tax['ttft_ms']['median']:.2f} ms of the first token and "
            f"{tax['us_per_token']['median']:.1f} us a token against the engine in process"
        )
    lines.append(
        f"echo engine: {tax['echo']['tokens_per_s']['median']:.0f} tokens/s through gRPC and the "
        f"driver; the driver's error is {driver['us_per_token']['median']:.1f} us a token, "
        f"{driver['share_of_smallest']:.1%} of the smallest TPOT; its processor time "
        f"{driver['cpu_us_per_token']['median']:.0f} us a token"
    )
    return lines
