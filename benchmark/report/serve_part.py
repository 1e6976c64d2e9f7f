"""The part of a run about a server under load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgellama.benchmark.report.figures import Percentiles, Series, require_positive


@dataclass(frozen=True)
class Slo:
    """What a request must meet to count: time to first token and per token, in milliseconds."""

    ttft_ms: float
    itl_ms: float
    source: str

    def __post_init__(self) -> None:
        require_positive(ttft_ms=self.ttft_ms, itl_ms=self.itl_ms)


@dataclass(frozen=True)
class LoadRow:
    """One load: `concurrency` streams at once, or `offered_per_s` requests a second."""

    concurrency: int | None
    arrivals: str | None
    burstiness: float | None
    offered_per_s: float | None
    requests: int
    completed: int
    seconds: float | None
    requests_per_s: float | None
    output_tokens_per_s: float | None
    ttft_ms: Percentiles
    itl_ms: Percentiles
    icl_ms: Percentiles | None
    tpot_ms: Percentiles
    e2el_ms: Percentiles
    goodput_per_s: float | None
    goodput_fraction: float | None
    errors: dict[str, int] | None
    goodput_of_knee: float | None

    def __post_init__(self) -> None:
        require_positive(offered_per_s=self.offered_per_s)


@dataclass(frozen=True)
class Knee:
    """The highest offered rate of the sweep at which nearly all requests met the SLO."""

    requests_per_s: float
    goodput_fraction: float


@dataclass(frozen=True)
class Interference:
    """Gaps of running streams, alone and while a long prompt enters."""

    itl_ms_alone: Percentiles
    itl_ms_with_long_prompt: Percentiles
    prompt_tokens: int


@dataclass(frozen=True)
class Driver:
    """What the load driver itself costs."""

    us_per_token: Series | None
    share_of_smallest: float


@dataclass(frozen=True)
class ServePart:
    """What `edgellama bench serve` measured."""

    target: str | None
    model: Any
    slo: Slo | None
    lengths: Any
    workload: Any
    slots: int | None
    seconds: float | None
    seed: int | None
    closed: tuple[LoadRow, ...] | None
    open: tuple[LoadRow, ...] | None
    knee: Knee | None
    saturation_requests_per_s: float | None
    overload: LoadRow | None
    interference: Interference | None
    tax: dict[str, Any] | None
    driver: Driver | None
    environment: dict[str, Any] | None

    def __post_init__(self) -> None:
        for number, row in enumerate(self.open or ()):
            if row.offered_per_s is None or row.arrivals is None:
                raise ValueError(f"has open[{number}] without offered_per_s or arrivals")
        for number, row in enumerate(self.closed or ()):
            if row.concurrency is None:
                raise ValueError(f"has closed[{number}] without concurrency")
