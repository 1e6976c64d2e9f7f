"""One cell of the grid: a decode step of the backend alone, at a given context."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

from edgellama.benchmark.ceiling_meter import Ceilings
from edgellama.benchmark.series import series
from edgellama.benchmark.work import decode_work
from edgellama.runtime.backend import Backend
from edgellama.runtime.manifest import Manifest
from edgellama.runtime.step import DecodeRow, Step

_LEAST_STEPS, _LEAST_SECONDS = 3, 0.1


class StepCell:
    """Runs steps over slots that no request holds, as if each held `context` - 1 tokens.

    What the cache holds there does not matter to the time; the engine writes a slot anew before it
    reads it.
    """

    def __init__(self, backend: Backend, manifest: Manifest, context: int, rows: int) -> None:
        self._backend = backend
        self._context, self._rows = context, rows
        self._work = decode_work(manifest, rows, context)
        past = context - 1
        decode = tuple(DecodeRow(slot, 0, past) for slot in range(rows))
        lengths = tuple(past if slot < rows else 0 for slot in range(backend.slots))
        self._step = Step(decode, None, lengths)
        self._rounds: list[tuple[float, Ceilings | None]] = []

    @property
    def bytes(self) -> int:
        """Bytes that the step must read."""
        return self._work.bytes

    def run(self, ceilings: Ceilings | None) -> None:
        """Run some steps; their median is the round's figure."""
        seconds: list[float] = []
        while len(seconds) < _LEAST_STEPS or sum(seconds) < _LEAST_SECONDS:
            began = time.perf_counter()
            self._backend.run(self._step)
            seconds.append(time.perf_counter() - began)
        self._rounds.append((median(seconds), ceilings))

    def forget(self) -> None:
        """Drop the rounds so far: they were to warm up."""
        self._rounds.clear()

    def row(self) -> dict[str, Any]:
        """Return the figures of all rounds."""
        seconds = [each for each, _ in self._rounds]
        row: dict[str, Any] = {
            "context": self._context,
            "rows": self._rows,
            "ms": series([1e3 * each for each in seconds]),
            "tokens_per_s": series([self._rows / each for each in seconds]),
            "bytes": self._work.bytes,
            "operations": self._work.operations,
            "gb_s": series([self._work.bytes / each / 1e9 for each in seconds]),
        }
        best = [ceilings for _, ceilings in self._rounds if ceilings is not None]
        if best:
            shares = [
                least.read_seconds(self.bytes) / each
                for least, each in zip(best, seconds, strict=True)
            ]
            row["share"] = series(shares)
        return row
