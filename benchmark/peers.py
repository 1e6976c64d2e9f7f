"""This engine beside other systems: the same model, the same work, one after another in one run.

In every round each cell is run by all systems before the next cell is; the order moves on by one
system a round. In the first round every system has the same share of the time, and the smallest
cells come first: what a slow one has no time left for is an error that says so. Where the time is
too short for all other rounds, the slowest cells are not repeated, and their `n` says so. A ratio
compares values of the same round. All systems stay loaded, and those that are not measured are
stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edgellama.benchmark.affordable import affordable
from edgellama.benchmark.machine_watch import MachineWatch
from edgellama.benchmark.peer import Peer, Seconds
from edgellama.benchmark.peer_environment import Report
from edgellama.benchmark.peer_folder import WEIGHTS_SEED, PeerFolder
from edgellama.benchmark.peer_systems import OURS, SYSTEMS, PeerSystem
from edgellama.benchmark.peer_work import GRIDS, PeerCell, peer_cells


def measure_peers(
    size: str,
    cache: Path,
    *,
    rounds: int,
    seed: int,
    threads: int,
    minutes: float,
    systems: Sequence[str] = tuple(SYSTEMS),
    seconds: Seconds | None = None,
    progress: Report,
) -> dict[str, Any]:
    """Measure random weights of a `size` of GRIDS; returns a document of kind peers.

    Every cell is run `rounds` times where that ends within `minutes` from now, and once where it
    does not. `cache` keeps environments and converted models for the next time. A system that
    cannot be installed, converted or loaded has an `error` in `systems` and no rows; a cell that
    failed is a row with `error`. Raises PeerError where the checkpoint cannot be written.
    """
    end = time.monotonic() + 60 * minutes
    folder = PeerFolder(size, cache.absolute(), progress)
    folder.write_checkpoint()
    wanted = [SYSTEMS[name] for name in systems]
    found = measure_systems(wanted, folder, rounds, seed, threads, seconds or Seconds(), end)
    return {**found, "minutes": minutes}


def measure_systems(
    systems: Sequence[PeerSystem],
    folder: PeerFolder,
    rounds: int,
    seed: int,
    threads: int,
    seconds: Seconds,
    end: float = math.inf,
) -> dict[str, Any]:
    """Measure on the checkpoint of `folder`, repeating what fits before `end` of the monotonic
    clock; returns the document."""
    grid = GRIDS[folder.size]
    cells = peer_cells(grid, folder.vocabulary, seed)
    with ExitStack() as owned:
        peers = [
            owned.enter_context(Peer(system, folder, grid, threads, seconds)) for system in systems
        ]
        for peer in peers:
            peer.open()
        running = [peer for peer in peers if peer.error is None]
        watch = MachineWatch()
        _run(running, cells, rounds, end, folder.report)
        environment = watch.facts()
    ours = next((peer for peer in running if peer.system.name == OURS), None)
    return {
        "kind": "peers",
        "size": folder.size,
        "model": {"name": f"random-{folder.size}", "seed": WEIGHTS_SEED},
        "rounds": rounds,
        "seed": seed,
        "threads": threads,
        "systems": [peer.facts() for peer in peers],
        "rows": [peer.row(cell, ours) for cell in cells for peer in running],
        "environment": environment,
    }


def _run(peers: list[Peer], cells: list[PeerCell], rounds: int, end: float, report: Report) -> None:
    """Run every cell by every system once, then in every further round what there is time for."""
    share = (end - time.monotonic()) / max(1, len(peers))
    seconds: dict[tuple[PeerCell, Peer], float] = {}
    spent = dict.fromkeys(peers, 0.0)
    pairs = [(cell, peer) for cell in sorted(cells, key=lambda c: c.tokens) for peer in peers]
    for done, (cell, peer) in enumerate(pairs):
        report("measure", done, len(pairs))
        if spent[peer] > share:
            peer.leave_out(cell, f"had no time left: smaller work took {spent[peer]:.0f} s")
            continue
        seconds[cell, peer] = took = _seconds(cell, peer)
        spent[peer] += took
    again = affordable(seconds, rounds - 1, end - time.monotonic())
    total, done = len(pairs) + (rounds - 1) * len(again), len(pairs)
    for number in range(1, rounds):
        first = number % max(1, len(peers))
        for cell in cells:
            for peer in [*peers[first:], *peers[:first]]:
                if (cell, peer) in again:
                    report("measure", done, total)
                    peer.run(cell)
                    done += 1
    report("measure", total, total)


def _seconds(cell: PeerCell, peer: Peer) -> float:
    """Run a cell; returns how long that took."""
    begin = time.monotonic()
    peer.run(cell)
    return time.monotonic() - begin
