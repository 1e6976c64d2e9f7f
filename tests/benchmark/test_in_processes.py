"""Work in processes beside each other: order, and what it raises."""

from __future__ import annotations

import os
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from planted_work import dies, fails, place

from edgellama.benchmark.in_processes import in_processes
from edgellama.benchmark.outcome import CheckFailed


def test_answers_keep_their_order_and_come_from_elsewhere() -> None:
    found = in_processes(place, range(5))
    assert [number for number, _ in found] == [0, 1, 2, 3, 4]
    if (os.cpu_count() or 1) > 1:
        assert os.getpid() not in {process for _, process in found}


def test_one_item_needs_no_process() -> None:
    assert in_processes(place, [7]) == [(7, os.getpid())]


def test_a_failure_keeps_its_figures() -> None:
    with pytest.raises(CheckFailed, match="is wrong") as caught:
        in_processes(fails, [1, 1])
    assert caught.value.figures == {"number": 1}


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor works in this process")
def test_a_process_that_dies_is_an_error() -> None:
    with pytest.raises(BrokenProcessPool):
        in_processes(dies, [1, 2])
