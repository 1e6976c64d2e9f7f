"""One cell of the grid: some prompts of one length at once, through the whole engine."""

from __future__ import annotations

import random
from statistics import median
from typing import Any

from edgellama.benchmark.ceiling_meter import Ceilings
from edgellama.benchmark.percentiles import percentiles_ms
from edgellama.benchmark.request_round import PARTS, Round, run_round
from edgellama.benchmark.series import series
from edgellama.benchmark.stream import steady_rate
from edgellama.benchmark.wire_cost import message_seconds
from edgellama.benchmark.work import decode_work, prefill_work
from edgellama.runtime.engine import Engine


class RequestCell:
    """Runs rounds and keeps what they gave; prompts are random, so that none shares a prefix."""

    def __init__(
        self, engine: Engine, prompt: int, rows: int, output: int, draw: random.Random
    ) -> None:
        self._engine, self._draw = engine, draw
        self._prompt, self._rows, self._output = prompt, rows, output
        self._prefill = prefill_work(engine.manifest, prompt)
        self._decode = decode_work(engine.manifest, rows, prompt + output // 2)
        self._rounds: list[tuple[Round, Ceilings | None]] = []

    @property
    def bytes(self) -> int:
        """Bytes that a decode step in the middle of the answers must read."""
        return self._decode.bytes

    def run(self, ceilings: Ceilings | None) -> None:
        """Run one round."""
        vocabulary = range(self._engine.manifest.model.vocab_size)
        prompts = [tuple(self._draw.choices(vocabulary, k=self._prompt)) for _ in range(self._rows)]
        done = run_round(self._engine, prompts, self._output)
        self._rounds.append((done, ceilings))

    def forget(self) -> None:
        """Drop the rounds so far: they were to warm up."""
        self._rounds.clear()

    def row(self) -> dict[str, Any]:
        """Return the figures of all rounds."""
        rounds = [done for done, _ in self._rounds]
        streams = [stream for done in rounds for stream in done.streams]
        tpots = [median(_tpots(done)) for done in rounds]
        steady = [rate for done in rounds if (rate := steady_rate(list(done.streams))) is not None]
        prefill = [done.prefill_seconds for done in rounds]
        row: dict[str, Any] = {
            "prompt_tokens": self._prompt,
            "rows": self._rows,
            "output_tokens": self._output,
            "rounds": len(rounds),
            "ttft_ms": percentiles_ms([stream.ttft for stream in streams]),
            "itl_ms": percentiles_ms([gap for stream in streams for gap in stream.gaps]),
            "tpot_ms": percentiles_ms([each for done in rounds for each in _tpots(done)]),
            "prefill_tokens_per_s": series([self._rows * self._prompt / each for each in prefill]),
            "tokens_per_s": series(steady) if steady else None,
            "tokens_per_s_user": series([1 / each for each in tpots]),
            "prefill_operations": self._rows * self._prefill.operations,
            "prefill_bytes": self._rows * self._prefill.bytes,
            "decode_bytes": self._decode.bytes,
            "decode_operations": self._decode.operations,
            "step_ms": self._step_ms(rounds),
        }
        best = [ceilings for _, ceilings in self._rounds if ceilings is not None]
        if best:
            operations = self._rows * self._prefill.operations
            row["prefill_share"] = series(
                [b.matrix_seconds(operations) / s for b, s in zip(best, prefill, strict=True)]
            )
            row["decode_share"] = series(
                [b.read_seconds(self.bytes) / s for b, s in zip(best, tpots, strict=True)]
            )
        return row

    def _step_ms(self, rounds: list[Round]) -> dict[str, float]:
        """Return the mean milliseconds of each part of a step, prefill steps included."""
        steps = sum(done.steps for done in rounds)
        spent = {part: sum(done.seconds[part] for done in rounds) for part in PARTS}
        deltas = [delta for done in rounds for delta in done.deltas]
        spent["wire"] = message_seconds(deltas) * len(deltas)
        return {part: round(1e3 * seconds / steps, 5) for part, seconds in spent.items()}


def _tpots(done: Round) -> list[float]:
    """Return the time per output token of each stream; each has two tokens or more."""
    return [stream.tpot for stream in done.streams if stream.tpot is not None]
