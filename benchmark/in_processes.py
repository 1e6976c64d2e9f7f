"""The same work on many items, in processes beside each other: compiling a kernel takes a core."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")
_MOST = 12  # each has a context of its own on the GPU, of half a GB


def in_processes(work: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
    """Return what `work` says of each item, in their order.

    `work` is a function of a module. What it raises is raised here; so is BrokenProcessPool, where
    a process was ended by a signal. New processes, not forks: CUDA does not outlive one.
    """
    count = min(os.cpu_count() or 1, _MOST, len(items))
    if count < 2:
        return [work(item) for item in items]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        try:
            return list(pool.map(work, items))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
