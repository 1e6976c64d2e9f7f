"""This engine beside other systems: the same model, the same work, one after another in one run.

In every round each cell is run by all systems before the next cell is; the order moves on by one
system a round. A ratio compares values of the same round. All systems stay loaded, and those that
are not measured are stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

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
    systems: Sequence[str] = tuple(SYSTEMS),
    seconds: Seconds | None = None,
    progress: Report,
) -> dict[str, Any]:
    """Measure random weights of a `size` of GRIDS; returns a document of kind peers.

    `cache` keeps environments and converted models for the next time. A system that cannot be
    installed, converted or loaded has an `error` in `systems` and no rows; a cell that failed is a
    row with `error`. Raises PeerError where the checkpoint cannot be written.
    """
    folder = PeerFolder(size, cache.absolute(), progress)
    folder.write_checkpoint()
    wanted = [SYSTEMS[name] for name in systems]
    return measure_systems(wanted, folder, rounds, seed, threads, seconds or Seconds())


def measure_systems(
    systems: Sequence[PeerSystem],
    folder: PeerFolder,
    rounds: int,
    seed: int,
    threads: int,
    seconds: Seconds,
) -> dict[str, Any]:
    """Measure on the checkpoint of `folder`; returns the document."""
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
        _run(running, cells, rounds, folder.report)
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


def _run(peers: list[Peer], cells: list[PeerCell], rounds: int, report: Report) -> None:
    """Run every cell by every system in every round."""
    total, done = rounds * len(cells) * len(peers), 0
    for number in range(rounds):
        first = number % max(1, len(peers))
        for cell in cells:
            for peer in [*peers[first:], *peers[:first]]:
                report("measure", done, total)
                peer.run(cell)
                done += 1
    report("measure", total, total)
