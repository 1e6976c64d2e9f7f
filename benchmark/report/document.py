"""A run: the document that `edgellama bench all` writes, read strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellama.benchmark.report.latency_part import LatencyPart
from edgellama.benchmark.report.peers_part import PeersPart
from edgellama.benchmark.report.record import DocumentError, read_record
from edgellama.benchmark.report.serve_part import ServePart

SCHEMA_VERSION = 1
_REMEDY = "make one with: edgellama bench all ENGINE"


@dataclass(frozen=True)
class AccuracyRow:
    """What an engine lost; only what was measured. Increase and agreement are fractions."""

    engine: str | None
    precision: str | None
    size_bytes: int | None
    tokens: int | None
    perplexity: float | None
    reference_perplexity: float | None
    perplexity_increase: float | None
    bits_per_byte: float | None
    kl_mean: float | None
    kl_p99: float | None
    top1_agreement: float | None


@dataclass(frozen=True)
class CountsPart:
    """Instructions that callgrind counted, by part of the runtime, of which work and versions."""

    instructions: dict[str, int]
    work: Any
    versions: dict[str, str] | None


@dataclass(frozen=True)
class Run:
    """One run; a part that was not measured is None."""

    schema_version: int
    engine: str
    profile: str
    when: str
    command: Any
    environment: dict[str, Any]
    latency: LatencyPart | None
    serve: ServePart | None
    peers: PeersPart | None
    counts: CountsPart | None
    accuracy: tuple[AccuracyRow, ...] | None

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise ValueError(
                f"has schema_version {self.schema_version}; this edgellama reads "
                f"{SCHEMA_VERSION}; measure again, or report with the version that measured"
            )

    @property
    def command_line(self) -> str:
        """The command as it is typed."""
        if isinstance(self.command, list):
            return " ".join(map(str, self.command))
        return str(self.command)


def read_run(raw: object) -> Run:
    """Return a run from its plain form. Raises DocumentError, which names the key."""
    if not isinstance(raw, Mapping):
        raise DocumentError("", f"is no JSON object; {_REMEDY}")
    if raw.get("kind") != "run":
        said = json.dumps(raw.get("kind"), ensure_ascii=False)
        raise DocumentError("kind", f"is {said}, a report needs 'run'; {_REMEDY}")
    accuracy = raw.get("accuracy")
    if isinstance(accuracy, Mapping):  # of one engine; several are a list
        raw = {**raw, "accuracy": [accuracy] if accuracy else None}
    run = read_record(Run, raw, "")
    if run.command in (None, "", []):
        raise DocumentError("command", f"is missing: a run must say how to repeat it; {_REMEDY}")
    return run


def load_document(path: Path) -> dict[str, Any]:
    """Return the JSON of a file after checking that it is a run; errors name the file.

    Raises OSError, or DocumentError for what is no JSON or no run.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise DocumentError("", f"is no UTF-8 text; {_REMEDY}", file=path) from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        problem = f"is no JSON ({error.msg}, {place}); {_REMEDY}"
        raise DocumentError("", problem, file=path) from error
    try:
        read_run(raw)
    except DocumentError as error:
        raise DocumentError(error.field, error.problem, file=path) from error
    document: dict[str, Any] = raw
    return document
