"""The optimisation profiles of a TensorRT engine: the sizes of each symbolic axis, one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgellama.profiles.profile import Limits

PREFILL, DECODE = "prefill", "decode"  # the order of the profiles in an engine


@dataclass(frozen=True)
class Range:
    """Smallest, most frequent and largest size of one axis."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise ValueError(f"{self} is not in order")

    def __contains__(self, size: int) -> bool:
        """Whether an engine with this range takes the size."""
        return self.min <= size <= self.max


@dataclass(frozen=True)
class OptimizationProfile:
    """What one profile of the engine is for, and the range of every symbolic axis."""

    name: str
    axes: Mapping[str, Range]

    def shapes(
        self, shape: Sequence[int | str]
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Return the smallest, best and largest shape of a tensor; KeyError for another symbol."""
        sizes = [
            (size, size, size)
            if isinstance(size, int)
            else (self.axes[size].min, self.axes[size].opt, self.axes[size].max)
            for size in shape
        ]
        low, best, high = zip(*sizes, strict=True) if sizes else ((), (), ())
        return low, best, high


def optimization_profiles(limits: Limits, capacity: int) -> tuple[OptimizationProfile, ...]:
    """Return the two profiles in the order of the engine.

    `prefill` is a chunk of one prompt, `decode` one token of each of `batch` rows. `rows` are the
    positions whose logits are wanted: one of a chunk when it serves, more when it is evaluated.
    `capacity` is that of the engine's slots, which no chunk exceeds.
    """
    one, slots = Range(1, 1, 1), limits.slots
    chunk = min(limits.prefill_chunk, capacity)
    return (
        OptimizationProfile(
            PREFILL,
            {"batch": one, "sequence": Range(1, chunk, chunk), "rows": Range(1, 1, slots)},
        ),
        OptimizationProfile(
            DECODE,
            {"batch": Range(1, slots, slots), "sequence": one, "rows": Range(1, slots, slots)},
        ),
    )


def batch_buckets(slots: int) -> tuple[int, ...]:
    """Return the batch sizes that decode runs with: powers of two, and `slots` itself."""
    sizes = [1]
    while sizes[-1] * 2 < slots:
        sizes.append(sizes[-1] * 2)
    return tuple(sizes) if sizes[-1] == slots else (*sizes, slots)
