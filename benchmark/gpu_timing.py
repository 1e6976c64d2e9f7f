"""Times of short work on a GPU: captured, replayed in turns, as medians with their spread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch

Work = Callable[[], object]
ROUNDS, REPLAYS, WARM_UPS = 9, 20, 3


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one run: the median of the rounds, and the fastest and slowest."""

    ms: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """Return the JSON form."""
        return {"ms": self.ms, "low": self.low, "high": self.high}


def timing_of(rounds: list[float]) -> Timing:
    """Return the figures of some rounds."""
    return Timing(median(rounds), min(rounds), max(rounds))


def time_in_turns(works: Mapping[str, Work]) -> dict[str, Timing]:
    """Time each work in a CUDA graph, so that launches cost all the same; rounds alternate.

    What cannot be captured raises RuntimeError.
    """
    graphs = {name: _captured(work) for name, work in works.items()}
    rounds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, graph in graphs.items():
            rounds[name].append(_replayed(graph))
    return {name: timing_of(found) for name, found in rounds.items()}


def _captured(work: Work) -> torch.cuda.CUDAGraph:
    make_stream: Callable[[], torch.cuda.Stream] = torch.cuda.Stream
    stream = make_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):  # compiles, and asks for what memory it takes
            work()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


def _replayed(graph: torch.cuda.CUDAGraph) -> float:
    event: Callable[..., torch.cuda.Event] = torch.cuda.Event
    began, ended = (event(enable_timing=True) for _ in range(2))
    graph.replay()
    began.record()
    for _ in range(REPLAYS):
        graph.replay()
    ended.record()
    torch.cuda.synchronize()
    return float(began.elapsed_time(ended) / REPLAYS)


def copy_work(size: int) -> Work:
    """Return a copy of `size` bytes on the GPU, which moves each of them twice."""
    source = torch.empty(size, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def gb_s(moved: int, timing: Timing) -> float:
    """Return 10^9 bytes a second."""
    return moved / timing.ms / 1e6
