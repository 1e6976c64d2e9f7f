"""Latency of an engine in this process: load, first token, decode, memory."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event as Flag
from typing import Any

from edgellama.benchmark.environment import environment, rss_bytes
from edgellama.benchmark.percentiles import percentiles_ms
from edgellama.benchmark.stream import StreamTimes, steady_rate
from edgellama.runtime.engine import Engine
from edgellama.runtime.request import Delta, End, Event, FinishReason, Request, Sampling, Stop

Report = Callable[[str, int, int], None]
_SEED = 2026


class MeasurementError(ValueError):
    """A measurement that was asked for in a way it cannot be made, or that went wrong."""


def measure_latency(
    directory: Path,
    *,
    rows: Sequence[int] = (1, 4, 8),
    prompt_tokens: int = 64,
    output_tokens: int = 64,
    repeats: int = 3,
    threads: int | None = None,
    progress: Report,
) -> dict[str, Any]:
    """Load the engine and decode with each number of rows at once; greedy, stop ids ignored.

    The first round of each number of rows warms up and is not counted. Prompts are random ids, so
    that no prefix is shared. Raises MeasurementError when the engine has no room for the lengths.
    """
    begin = time.perf_counter()
    engine = Engine.load(directory, threads=threads)
    load_seconds = time.perf_counter() - begin
    with engine:
        kv = engine.manifest.kv
        if prompt_tokens + output_tokens > kv.capacity:
            raise MeasurementError(
                f"prompt and output have {prompt_tokens + output_tokens} tokens; a slot holds "
                f"{kv.capacity}; ask for fewer"
            )
        if max(rows) > kv.slots:
            raise MeasurementError(
                f"rows has {max(rows)}; the engine has {kv.slots} slots; ask for fewer"
            )
        draw = random.Random(_SEED)
        results = []
        for count in rows:
            rounds = []
            for number in range(repeats + 1):
                prompts = [
                    tuple(draw.choices(range(engine.manifest.model.vocab_size), k=prompt_tokens))
                    for _ in range(count)
                ]
                rounds.append(_round(engine, prompts, output_tokens))
                progress(f"{count} rows", number + 1, repeats + 1)
            results.append({"rows": count, **_summary(rounds[1:])})
        return {
            "engine": str(directory),
            "profile": engine.manifest.profile.name,
            "prompt_tokens": prompt_tokens,
            "output_tokens": output_tokens,
            "repeats": repeats,
            "threads": threads or engine.manifest.profile.device.threads,
            "load_seconds": round(load_seconds, 4),
            "rss_bytes": rss_bytes(),
            "rows": results,
            "environment": environment(),
        }


def _round(
    engine: Engine, prompts: Sequence[tuple[int, ...]], output_tokens: int
) -> list[StreamTimes]:
    """Run all prompts at once and return the times of their tokens."""
    streams = [StreamTimes(sent=0.0) for _ in prompts]
    ends: list[End | None] = [None] * len(prompts)
    finished = Flag()

    def listener(index: int) -> Callable[[Event], None]:
        def listen(event: Event) -> None:
            now = time.perf_counter()
            if isinstance(event, Delta):
                streams[index].arrive(now, len(event.token_ids))
            elif isinstance(event, End):
                streams[index].ended = now
                ends[index] = event
                if all(ends):
                    finished.set()

        return listen

    for index, prompt in enumerate(prompts):
        request = Request(
            prompt_ids=prompt,
            sampling=Sampling(temperature=0.0),
            stop=Stop(max_new_tokens=output_tokens, ignore_eos=True),
        )
        streams[index].sent = time.perf_counter()
        engine.submit(request, listener(index))
    finished.wait()
    for end in ends:
        if end is None or end.reason is not FinishReason.MAX_TOKENS:
            raise MeasurementError(f"a stream ended with {end}; nothing was measured")
    return streams


def _summary(rounds: Sequence[list[StreamTimes]]) -> dict[str, Any]:
    streams = [stream for each in rounds for stream in each]
    rates = [rate for each in rounds if (rate := steady_rate(each)) is not None]
    return {
        "ttft_ms": percentiles_ms([stream.ttft for stream in streams]),
        "itl_ms": percentiles_ms([gap for stream in streams for gap in stream.gaps]),
        "tpot_ms": percentiles_ms([s.tpot for s in streams if s.tpot is not None]),
        "decode_tokens_per_second": round(sum(rates) / len(rates), 2) if rates else None,
    }
