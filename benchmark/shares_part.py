"""Which share of a decode step is not the model: scheduler, sampler, text and listeners."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict
from threading import Event as Flag
from typing import Any

from edgellama.benchmark.engine_stream import GREEDY, fixed_length
from edgellama.benchmark.latency_grid import MeasurementError
from edgellama.benchmark.series import series
from edgellama.runtime.engine import Engine
from edgellama.runtime.event import Delta, End, Event
from edgellama.runtime.request import Sampling
from edgellama.runtime.step_loop import EngineStats
from edgellama.runtime.step_record import StepRecord

# What a step does besides the backend, and the two parts of that: binding inputs, and the model.
OUTSIDE = ("schedule", "sample", "detokenise", "update", "deliver")
_INSIDE = ("bind", "run")
# `top_p` is what Meta's own generation_config.json of Llama 3 says.
SAMPLINGS = {
    "greedy": GREEDY,
    "top_p": Sampling(temperature=0.6, top_p=0.9),
    # Random weights have flat logits: at this temperature a nucleus has some 10 tokens, about as
    # many as a trained model's.
    "narrow_top_p": Sampling(temperature=0.1, top_p=0.9),
    "top_k": Sampling(temperature=0.8, top_p=0.95, top_k=50),
}
_MOST_ROWS = 16
_PROMPT = 8  # tokens
_STEPS = 32  # that are measured, with every row in them


def lacking_share_room(slots: int, capacity: int) -> str | None:
    """Return why slots are too short for the steps, None where they are not."""
    # The first rows go on while the last prompts are read, each perhaps in two chunks.
    needed = _PROMPT + 4 * min(_MOST_ROWS, slots) + _STEPS + 4
    if capacity < needed:
        return f"a slot holds {capacity} tokens; {needed} are needed"
    return None


class SharesPart:
    """Decodes as many rows as there are slots, 16 at most, with each sampling in turn."""

    def __init__(self, engine: Engine, slots: int, draw: random.Random) -> None:
        self._engine, self._draw = engine, draw
        self._output = engine.capacity - _PROMPT  # they are cancelled when all is measured
        self._rows = min(_MOST_ROWS, slots)
        self._rounds: dict[str, list[dict[str, float]]] = {name: [] for name in SAMPLINGS}

    def run(self) -> None:
        """Run one round. Raises MeasurementError."""
        for name, sampling in SAMPLINGS.items():
            self._rounds[name].append(self._seconds(sampling))

    def row(self) -> dict[str, Any]:
        """Return the figures of all rounds."""
        rows = [self._row(name, rounds) for name, rounds in self._rounds.items()]
        return {"rows": self._rows, "steps": _STEPS, "samplings": rows}

    def _row(self, name: str, rounds: list[dict[str, float]]) -> dict[str, Any]:
        whole = [sum(parts.values()) for parts in rounds]
        rules = SAMPLINGS[name]
        return {
            "sampling": name,
            "temperature": rules.temperature,
            "top_p": rules.top_p,
            "top_k": rules.top_k,
            "step_ms": series([1e3 * each / _STEPS for each in whole]),
            "share": _shares(rounds, *OUTSIDE),
            "parts": {part: _shares(rounds, part) for part in (*OUTSIDE, *_INSIDE)},
        }

    def _seconds(self, sampling: Sampling) -> dict[str, float]:
        """Return the seconds of each part over the measured steps."""
        window = _Window(self._engine, self._rows)
        ids = range(self._engine.manifest.model.vocab_size)
        requests = [
            fixed_length(self._draw.choices(ids, k=_PROMPT), self._output, sampling)
            for _ in range(self._rows)
        ]
        sent: list[str] = []

        def send_others() -> None:
            for row, request in enumerate(requests[1:], 1):
                sent.append(self._engine.submit(request, window.listener(row)))

        # The others are sent by the engine's own thread: on a busy machine the first could end
        # before this one comes to it.
        window.on_first = send_others
        try:
            sent.append(self._engine.submit(requests[0], window.listener(0)))
            window.measured.wait()
        finally:
            for request_id in sent:
                self._engine.cancel(request_id)
            window.wait_for_ends(len(sent))
        return window.seconds()


def _shares(rounds: list[dict[str, float]], *parts: str) -> dict[str, Any]:
    """Return the series of what some parts take of the whole."""
    return series([sum(each[part] for part in parts) / sum(each.values()) for each in rounds])


class _Window:
    """The steps `[first.steps, last.steps)` in which every row is decoded and nothing else."""

    def __init__(self, engine: Engine, rows: int) -> None:
        self._engine, self._rows = engine, rows
        self._tokens = [0] * rows
        self._begun = self._ended = 0
        self._last_row = -1  # the last that has begun: what it sees, all others see
        self._first: EngineStats | None = None
        self._last: EngineStats | None = None
        self.on_first: Callable[[], None] = lambda: None  # with the first token of row 0
        self.measured = Flag()
        self._changed = Flag()

    def listener(self, row: int) -> Callable[[Event], None]:
        """Return the listener of a row; it does next to nothing, for it is measured too."""

        def listen(event: Event) -> None:
            if isinstance(event, Delta):
                self._tokens[row] += 1
                if self._tokens[row] == 1:
                    self._begun += 1
                    self._last_row = row
                    if row == 0:
                        self.on_first()
                if row == self._last_row and self._begun == self._rows:
                    self._count(self._tokens[row])
            elif isinstance(event, End):
                self._ended += 1
                self.measured.set()
                self._changed.set()

        return listen

    def _count(self, tokens: int) -> None:
        # The first step of all rows warms up: its inputs are bound anew.
        if tokens == 2:
            self._first = self._engine.stats()
        elif tokens == 2 + _STEPS:
            self._last = self._engine.stats()
            self.measured.set()

    def wait_for_ends(self, count: int) -> None:
        """Wait until so many streams have ended."""
        while self._ended < count:
            self._changed.wait()
            self._changed.clear()

    def seconds(self) -> dict[str, float]:
        """Return the sums of all parts; raises MeasurementError where the rows were not alone."""
        first, last = self._first, self._last
        if first is None or last is None:
            raise MeasurementError(
                f"one of {self._rows} streams ended before {_STEPS} steps of all; nothing was "
                "measured"
            )
        steps = [each for each in self._engine.steps() if first.steps <= each.index < last.steps]
        if len(steps) != _STEPS or not all(self._is_whole(each) for each in steps):
            raise MeasurementError("steps of all rows had others between; nothing was measured")
        sums: dict[str, float] = dict.fromkeys((*OUTSIDE, "backend"), 0.0)
        for step in steps:
            for part, seconds in asdict(step.parts).items():
                sums[part] += seconds
        run = last.run_seconds - first.run_seconds
        return {**{part: sums[part] for part in OUTSIDE}, "bind": sums["backend"] - run, "run": run}

    def _is_whole(self, step: StepRecord) -> bool:
        return step.choice.chunk is None and len(step.choice.rows) == self._rows
