"""The sizes that one compiled kernel works in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """`block_m` lines (query heads of positions), `block_n` cached keys and `new_n` new keys at
    once, by `warps` warps of 32 threads, with `stages` blocks of keys on their way."""

    block_m: int
    block_n: int
    new_n: int
    warps: int
    stages: int

    def __post_init__(self) -> None:
        for name in ("block_m", "block_n", "new_n"):
            value = getattr(self, name)
            if value < 16 or value & (value - 1):
                raise ValueError(f"{name} is {value}; it must be a power of two >= 16")
        if self.warps not in (1, 2, 4, 8):
            raise ValueError(f"warps is {self.warps}; it must be 1, 2, 4 or 8")
        if not 1 <= self.stages <= 8:
            raise ValueError(f"stages is {self.stages}; it must be in [1, 8]")
