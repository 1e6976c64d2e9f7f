"""What the systems are asked, and the rates that follow from their times."""

from __future__ import annotations

import pytest

from edgellama.benchmark.peer_environment import PeerError
from edgellama.benchmark.peer_work import (
    GRIDS,
    KEYS,
    PeerCell,
    PeerGrid,
    PeerRequest,
    peer_cells,
    warm_up,
)


def cell(work: str, *lengths: int, size: int = 10) -> PeerCell:
    return PeerCell(work, size, tuple(PeerRequest((1, 2), length, 0.0) for length in lengths))


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_the_cells_are_those_of_the_grid(grid: PeerGrid) -> None:
    cells = peer_cells(grid, 1000, seed=3)
    sizes = {work: tuple(each.size for each in cells if each.work == work) for work in KEYS}
    assert sizes == {
        "prefill": grid.prompts,
        "decode": grid.contexts,
        "requests": grid.concurrencies,
    }
    for each in cells:
        longest = max(len(one.prompt) + one.output_tokens for one in each.requests)
        assert longest <= grid.longest
        assert all(0 <= token < 1000 for one in each.requests for token in one.prompt)
        arrivals = [one.arrival for one in each.requests]
        assert arrivals[0] == 0 and arrivals == sorted(arrivals)
        if each.work == "requests":
            assert len(each.requests) == each.size
            for one in each.requests:
                assert grid.prompt_bounds[0] <= len(one.prompt) <= grid.prompt_bounds[1]
                assert grid.output_bounds[0] <= one.output_tokens <= grid.output_bounds[1]
        else:
            assert len(each.requests) == 1 and len(each.requests[0].prompt) == each.size
        if each.work != "prefill":
            assert longest <= grid.longest_answer
        if each.work == "requests":
            assert longest <= grid.longest_of_many


def test_the_seed_fixes_them() -> None:
    grid = GRIDS["tiny"]
    assert peer_cells(grid, 1000, 3) == peer_cells(grid, 1000, 3) != peer_cells(grid, 1000, 4)
    assert len(warm_up(grid, 1000, 0)) > 1


def test_rates() -> None:
    assert cell("prefill", 1, size=128).rate([[0.5]]) == 256
    assert cell("decode", 3).rate([[1.0, 1.5, 2.0]]) == 2
    assert cell("requests", 1, 2).rate([[0.25], [1.0, 1.5]]) == 2


@pytest.mark.parametrize(
    ("work", "times", "said"),
    [
        ("decode", [[1.0, 2.0]], "gave 2 tokens where 3 were asked for"),
        ("decode", [[1.0, 2.0, 3.0, 4.0]], "gave 4 tokens"),
        ("decode", [], "gave  tokens"),
        ("decode", [[1.0, 1.0, 1.0]], r"2 tokens within 0\.0 s"),
    ],
)
def test_what_is_no_answer_has_no_rate(work: str, times: list[list[float]], said: str) -> None:
    with pytest.raises(PeerError, match=said):
        cell(work, 3).rate(times)
