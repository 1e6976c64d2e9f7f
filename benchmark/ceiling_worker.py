"""Measure what the machine can do at best, in a process of its own.

Read bandwidth: every thread sums the squares of its part of an array as long as what the engine
reads in a step, so that a model that fits the cache is held to the cache's speed. Matrix
throughput: square products, in float32 and, where torch is installed, in bfloat16 and int8, the
latter by onnxruntime too, which is the faster one on a processor without VNNI. One request a line
on standard input, `{"bytes": N}`, one answer a line. Each figure is the best of
some windows of some milliseconds: a ceiling is what the machine can do, not what it did on average.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

_WINDOWS = 3
_WINDOW_SECONDS = 0.01
_SIDE = 1024
_LONGEST_SECONDS = 0.2  # of one product
_ITEM = 4  # bytes of a float32
Run = Callable[[], object]


def _best(run: Run, work: float) -> float:
    """Return the greatest work a second (in 10^9) over the windows; one run comes before."""
    run()
    rates = []
    for _ in range(_WINDOWS):
        runs, began = 0, time.perf_counter()
        while not runs or time.perf_counter() - began < _WINDOW_SECONDS:
            run()
            runs += 1
        rates.append(runs * work / (time.perf_counter() - began) / 1e9)
    return max(rates)


class Reader:
    """Reads an array with all threads; a call of BLAS a thread, which holds no lock meanwhile."""

    def __init__(self, pool: ThreadPoolExecutor, threads: int) -> None:
        self._pool, self._threads = pool, threads
        self._array = np.empty(0, np.float32)

    def gb_s(self, size: int) -> float:
        """Return 10^9 bytes a second for an array of `size` bytes."""
        items = max(size // _ITEM, self._threads)
        if len(self._array) < items:
            self._array = np.ones(items, np.float32)
        parts = np.array_split(self._array[:items], self._threads)
        # Enough passes within one call of a thread that starting it costs nothing.
        passes = max(1, (8 << 20) // (items * _ITEM))

        def read(part: Any) -> None:
            for _ in range(passes):
                np.dot(part, part)

        def run() -> None:
            list(self._pool.map(read, parts))

        return _best(run, passes * items * _ITEM)


def _float32(pool: ThreadPoolExecutor, threads: int) -> float:
    """Return the rate of products of float32 matrices, one a thread."""
    pairs = [np.ones((2, _SIDE, _SIDE), np.float32) for _ in range(threads)]

    def run() -> None:
        list(pool.map(lambda pair: pair[0] @ pair[1], pairs))

    return _best(run, 2.0 * _SIDE**3 * threads)


def _torch_rates(threads: int) -> dict[str, float]:
    """Return the rates of narrow types; empty where torch is not installed."""
    try:
        import torch
    except ImportError:
        return {}
    torch.set_num_threads(threads)
    integer: Any = torch._int_mm

    def products(dtype: torch.dtype, multiply: Callable[[Any, Any], Any]) -> float:
        """Return the rate of large products, or of small ones where those would take too long."""
        rate = 0.0
        for side in (_SIDE // 4, 2 * _SIDE):
            work = 2.0 * side**3
            if rate and work / (rate * 1e9) > _LONGEST_SECONDS:
                break  # the processor has no instruction for the type: it is no ceiling anyway
            square = torch.ones((side, side), dtype=dtype)
            rate = max(rate, _best(partial(multiply, square, square.T), work))
        return rate

    return {
        "bf16": products(torch.bfloat16, lambda a, b: a @ b),
        "int8": products(torch.int8, integer),
    }


def _runtime_rates(threads: int) -> dict[str, Callable[[], float]]:
    """Return what measures onnxruntime's products of bytes; empty where it cannot be asked."""
    try:
        from edgellama.benchmark.integer_products import product_of_bytes
    except ImportError:
        return {}
    run = product_of_bytes(_SIDE, threads)
    return {"int8": lambda: _best(run, 2.0 * _SIDE**3)}


def _faster(some: dict[str, float], others: dict[str, float]) -> dict[str, float]:
    """Return the greater rate of each type."""
    return {name: max(some.get(name, 0.0), others.get(name, 0.0)) for name in {**some, **others}}


def main(threads: int) -> None:
    """Answer requests until standard input ends."""
    with ThreadPoolExecutor(threads) as pool:
        reader = Reader(pool, threads)
        runtime = _runtime_rates(threads)
        for line in sys.stdin:
            size = json.loads(line)["bytes"]
            matrix = {"fp32": _float32(pool, threads), **_torch_rates(threads)}
            matrix = _faster(matrix, {name: rate() for name, rate in runtime.items()})
            print(json.dumps({"read_gb_s": reader.gb_s(size), "matrix_gops": matrix}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
