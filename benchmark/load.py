"""A server under a fixed number of streams, each sending one request after another."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from edgellama.benchmark.environment import environment
from edgellama.benchmark.percentiles import percentiles_ms
from edgellama.benchmark.stream import StreamTimes
from edgellama.grpc_service.client import Client

Report = Callable[[str, int, int], None]
_SEED = 2026


def measure_load(
    target: str,
    *,
    streams: int,
    requests: int,
    prompt_tokens: int,
    output_tokens: int,
    timeout: float,
    progress: Report,
) -> dict[str, Any]:
    """Send `requests` greedy requests, `streams` at a time, and report what the client saw.

    One request per stream goes first and is not counted: it opens the connection. This is a closed
    loop: it shows speed at a given concurrency, not behaviour at a given arrival rate. Raises
    ClientError.
    """
    draw = random.Random(_SEED)
    with Client(target) as client, ThreadPoolExecutor(streams) as pool:
        info = client.model_info()

        def prompt() -> tuple[int, ...]:
            return tuple(draw.choices(range(info.vocab_size), k=prompt_tokens))

        def one(ids: tuple[int, ...]) -> StreamTimes:
            times = StreamTimes(sent=time.perf_counter())
            with client.stream(
                ids,
                timeout=timeout,
                temperature=0.0,
                max_new_tokens=output_tokens,
                ignore_eos=True,
            ) as stream:
                for delta in stream:
                    times.arrive(time.perf_counter(), len(delta.token_ids))
            times.ended = time.perf_counter()
            return times

        list(pool.map(one, [prompt() for _ in range(streams)]))
        begin = time.perf_counter()
        calls = [pool.submit(one, prompt()) for _ in range(requests)]
        for number, _ in enumerate(as_completed(calls), start=1):
            progress("requests", number, requests)
        done = [call.result() for call in calls]
        seconds = time.perf_counter() - begin
    tokens = sum(times.tokens for times in done)
    return {
        "target": target,
        "model": info.model,
        "streams": streams,
        "requests": requests,
        "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens,
        "seconds": round(seconds, 3),
        "requests_per_second": round(requests / seconds, 3),
        "output_tokens_per_second": round(tokens / seconds, 2),
        "ttft_ms": percentiles_ms([times.ttft for times in done]),
        "itl_ms": percentiles_ms([gap for times in done for gap in times.gaps]),
        "tpot_ms": percentiles_ms([times.tpot for times in done if times.tpot is not None]),
        "e2el_ms": percentiles_ms([(times.ended or 0.0) - times.sent for times in done]),
        "environment": environment(),
    }
