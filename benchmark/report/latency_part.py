"""The part of a run about one engine alone: its ceilings, requests and steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgellama.benchmark.report.figures import Percentiles, Series, require_positive

# In the order in which a step passes through them.
STEP_PARTS = ("schedule", "bind", "run", "sample", "detokenise", "deliver", "wire")


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do: GB/s read, and 10^9 operations/s of a matrix product by precision.

    `matrix_used` is the precision in which the engine multiplies.
    """

    read_gb_s: Series
    matrix_gops: dict[str, Series | None]
    matrix_used: str
    source: str

    def __post_init__(self) -> None:
        if self.matrix_gops.get(self.matrix_used) is None:
            known = ", ".join(name for name, found in self.matrix_gops.items() if found)
            raise ValueError(
                f"has matrix_used {self.matrix_used!r}; matrix_gops was measured for {known or '-'}"
            )
        require_positive(read_gb_s=self.read_gb_s, **self.matrix_gops)

    @property
    def matrix(self) -> Series:
        """The matrix ceiling of the engine's precision, in 10^9 operations/s."""
        found = self.matrix_gops[self.matrix_used]
        assert found is not None
        return found


@dataclass(frozen=True)
class RequestRow:
    """One cell of the grid: `rows` requests at once. Shares are fractions of a ceiling."""

    prompt_tokens: int
    rows: int
    output_tokens: int
    rounds: int | None
    ttft_ms: Percentiles
    itl_ms: Percentiles
    tpot_ms: Percentiles
    prefill_tokens_per_s: Series | None
    tokens_per_s: Series | None
    tokens_per_s_user: Series | None
    prefill_operations: int | None
    prefill_bytes: int | None
    prefill_share: Series | None
    decode_bytes: int | None
    decode_share: Series | None
    step_ms: dict[str, Series | float | None] | None

    def __post_init__(self) -> None:
        require_positive(
            prompt_tokens=self.prompt_tokens,
            rows=self.rows,
            prefill_operations=self.prefill_operations,
            prefill_bytes=self.prefill_bytes,
            prefill_share=self.prefill_share,
            decode_bytes=self.decode_bytes,
            decode_share=self.decode_share,
            prefill_tokens_per_s=self.prefill_tokens_per_s,
        )

    @property
    def split(self) -> dict[str, float]:
        """Milliseconds of a step by part, in the order of a step; unknown parts come last."""
        found = {}
        for name, value in (self.step_ms or {}).items():
            if value is not None:
                found[name] = value.median if isinstance(value, Series) else value
        order = [*STEP_PARTS, *(name for name in found if name not in STEP_PARTS)]
        return {name: found[name] for name in order if name in found}


@dataclass(frozen=True)
class StepRow:
    """A step of `rows` sequences with `context` tokens each; `bytes` is what it must read."""

    context: int
    rows: int
    ms: Series
    bytes: int
    gb_s: Series
    share: Series | None
    operations: int

    def __post_init__(self) -> None:
        require_positive(
            context=self.context,
            rows=self.rows,
            ms=self.ms,
            bytes=self.bytes,
            gb_s=self.gb_s,
            share=self.share,
            operations=self.operations,
        )


@dataclass(frozen=True)
class LatencyPart:
    """What `edgellama bench latency` measured."""

    model: dict[str, Any] | None
    precision: dict[str, Any] | None
    threads: int | None
    rounds: int | None
    seed: int | None
    load_seconds: float | None
    peak_rss_bytes: int | None
    device_memory_bytes: int | None
    energy_j_per_token: float | None
    ceilings: Ceilings | None
    requests: tuple[RequestRow, ...] | None
    steps: tuple[StepRow, ...] | None
    environment: dict[str, Any] | None
