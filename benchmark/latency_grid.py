"""What is measured of an engine: prompts, rows at once, contexts; from the profile by default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgellama.runtime.manifest import Manifest


class MeasurementError(ValueError):
    """A measurement that was asked for in a way it cannot be made, or that went wrong."""


@dataclass(frozen=True)
class Grid:
    """Requests of every prompt length with every number of rows at once, and single decode steps
    of every context with every number of rows; each `rounds` times, and once before to warm up."""

    prompts: tuple[int, ...]
    rows: tuple[int, ...]
    contexts: tuple[int, ...]
    output_tokens: int
    rounds: int

    def require_fit(self, manifest: Manifest) -> None:
        """Raise MeasurementError where a slot or the engine is too small for it."""
        kv = manifest.kv
        longest = max(self.prompts) + self.output_tokens
        if longest > kv.capacity:
            raise MeasurementError(
                f"prompt and output have {longest} tokens; a slot holds {kv.capacity}; ask for "
                "fewer"
            )
        if max(self.rows) > kv.slots:
            raise MeasurementError(
                f"rows has {max(self.rows)}; the engine has {kv.slots} slots; ask for fewer"
            )
        if self.contexts and max(self.contexts) > kv.capacity:
            raise MeasurementError(
                f"contexts has {max(self.contexts)}; a slot holds {kv.capacity} tokens; ask for "
                "fewer"
            )


def grid_of(
    manifest: Manifest,
    *,
    prompts: Sequence[int] | None = None,
    rows: Sequence[int] | None = None,
    contexts: Sequence[int] | None = None,
    output_tokens: int | None = None,
    rounds: int,
) -> Grid:
    """Return what is asked for, and for the rest what the engine's limits suggest.

    Prompts of 1/32 and 1/4 of a slot, one row, half and all of the slots, contexts of 1/16, 1/2 and
    a whole slot, 1/32 of a slot (16 tokens or more) of output.
    """
    slots, capacity = manifest.kv.slots, manifest.kv.capacity
    grid = Grid(
        prompts=_sorted(prompts or (max(1, capacity // 32), max(1, capacity // 4))),
        rows=_sorted(rows or (1, max(1, slots // 2), slots)),
        contexts=_sorted(contexts or (max(1, capacity // 16), max(1, capacity // 2), capacity)),
        output_tokens=output_tokens or max(2, min(max(16, capacity // 32), capacity // 2)),
        rounds=rounds,
    )
    grid.require_fit(manifest)
    return grid


def _sorted(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(set(values)))
