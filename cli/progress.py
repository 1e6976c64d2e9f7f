"""A progress display on standard error, and nothing at all where that is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[str, int, int], None]


def _silent(stage: str, done: int, total: int) -> None:
    """Take a report and show nothing."""


@contextmanager
def progress(*, enabled: bool = True) -> Iterator[Report]:
    """Give a function `(stage, done, total)`; each new stage name opens a line of its own.

    A `total` of 0 means that the size is not known: the line shows activity only.
    """
    if not enabled or not sys.stderr.isatty():
        yield _silent
        return
    # rich costs 50 ms to import, so only a terminal pays for it.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Elapsed())
    with Progress(*columns, console=Console(stderr=True)) as display:
        tasks = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = display.add_task(stage, total=total or None)
            display.update(tasks[stage], completed=done, total=total or None)

        yield report
