"""The figures of a document that a later run is held to: ratios and counts, never bare times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PARTS = ("latency", "peers", "counts", "batching")


class DocumentError(ValueError):
    """A document that holds no figures, or not in the form of a benchmark's."""


@dataclass(frozen=True)
class Figure:
    """A value, how far apart its rounds were (as a share of it), and which way is better."""

    value: float
    spread: float | None
    more_is_better: bool

    def worsening(self, other: Figure) -> float:
        """Return how much worse `other` is, as a share of this one; below 0 it is better."""
        change = other.value / self.value - 1
        return -change if self.more_is_better else change


def figures_of(document: Mapping[str, Any], where: str) -> dict[str, Figure]:
    """Return the figures of a document of one of PARTS, or of kind run, by name.

    `where` names the document in errors. Raises DocumentError.
    """
    kind = document.get("kind")
    if kind == "run":
        parts = {part: document[part] for part in PARTS if document.get(part)}
    elif kind in PARTS:
        parts = {str(kind): document}
    else:
        raise DocumentError(
            f"{where}: kind is {kind!r}; it must be run, {', '.join(PARTS[:-1])} or {PARTS[-1]}, "
            "as `edgellama bench --json` writes them"
        )
    try:
        found = {name: each for part in parts for name, each in _READERS[part](parts[part])}
    except (KeyError, TypeError, AttributeError) as error:
        raise DocumentError(
            f"{where}: is damaged ({error!r}); make it anew with `edgellama bench`"
        ) from error
    if not found:
        raise DocumentError(
            f"{where}: has no ratio and no count; measure with ceilings, or count instructions"
        )
    return found


def _series(name: str, row: Mapping[str, Any], key: str) -> Iterator[tuple[str, Figure]]:
    if key in row:
        values = row[key]
        yield f"{name} {key}", Figure(values["median"], values["spread"], True)


def _latency(document: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    for row in document["requests"]:
        name = f"prompt {row['prompt_tokens']} x {row['rows']} rows:"
        yield from _series(name, row, "prefill_share")
        yield from _series(name, row, "decode_share")
    for row in document["steps"]:
        yield from _series(f"context {row['context']} x {row['rows']} rows:", row, "share")


def _peers(document: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    """A peer's speed divided by ours: less is better for us."""
    for row in document["rows"]:
        values = row.get("ratio_to_ours")
        if values is None or row["system"] == "edgellama":
            continue
        keys = ("prompt_tokens", "context", "concurrency")
        size = next(row[key] for key in keys if key in row)
        name = f"{row['work']} {size}: {row['system']} to ours"
        yield name, Figure(values["median"], values["spread"], False)


def _counts(document: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    for part, count in document["instructions"].items():
        yield f"instructions of the {part}", Figure(float(count), 0.0, False)


def _batching(document: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    """Of all of them less is better."""
    found: dict[str, Mapping[str, Any]] = {}
    if document["interference"]:
        for key in ("p50_ratio", "p99_ratio", "ttft_ratio"):
            found[f"interference {key}"] = document["interference"][key]
    if document["prefix"]:
        found["prefix ratio"] = document["prefix"]["ratio"]
    if document["shares"]:
        for row in document["shares"]["samplings"]:
            found[f"share outside the model, {row['sampling']}"] = row["share"]
    if document["memory"]:
        found["memory ratio"] = document["memory"]["ratio"]
    for name, values in found.items():
        yield name, Figure(values["median"], values["spread"], False)


_READERS = {"latency": _latency, "peers": _peers, "counts": _counts, "batching": _batching}
