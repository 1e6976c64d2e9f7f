"""What calibration measures: the precisions that need scales, and how they are found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import (
    AWQ_METHODS,
    BLOCK_SIZES,
    CALIBRATED_KV,
    CALIBRATED_WEIGHTS,
    KV_GRANULARITIES,
    Profile,
)

BLOCK_PRECISION = "int4_awq"


class CalibrationError(ValueError):
    """Calibration text, a recipe or an artefact that cannot be used; written for the user."""


@dataclass(frozen=True)
class Recipe:
    """The scales to find: `weights` and `kv` are precisions or None where none are needed.

    `block_size` (inputs that share a scale) and `awq` (modelopt's search) are for int4_awq and
    None otherwise. `granularity` says what a cache scale covers and `capacity` how many positions
    it is for; None without a cache precision.
    """

    weights: str | None = None
    block_size: int | None = None
    awq: str | None = None
    kv: str | None = None
    granularity: str | None = None
    capacity: int | None = None

    def __post_init__(self) -> None:
        blocks = self.weights == BLOCK_PRECISION
        _one_of("weights", self.weights, (None, *CALIBRATED_WEIGHTS))
        _one_of("kv", self.kv, (None, *CALIBRATED_KV))
        _one_of("block_size", self.block_size, BLOCK_SIZES if blocks else (None,))
        _one_of("awq", self.awq, AWQ_METHODS if blocks else (None,))
        _one_of("granularity", self.granularity, KV_GRANULARITIES if self.kv else (None,))
        if (self.capacity is None) == bool(self.kv) or (self.capacity or 1) < 1:
            raise CalibrationError(
                f"recipe.capacity is {self.capacity!r} for a cache of {self.kv!r}; positions >= 1 "
                "are needed with a cache precision, and None without"
            )
        if self.weights is None and self.kv is None:
            raise CalibrationError(
                f"nothing to calibrate: weights of {', '.join(CALIBRATED_WEIGHTS)} or a cache of "
                f"{', '.join(CALIBRATED_KV)} need scales, the other precisions none"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the plain form for JSON."""
        return asdict(self)


def _one_of(field: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise CalibrationError(
            f"recipe.{field} is {value!r}; supported here: {', '.join(map(repr, allowed))}"
        )


def recipe_of(profile: Profile, model: ModelConfig) -> Recipe:
    """Return what a profile's precisions need; raises CalibrationError where they need nothing.

    Cache scales are for the positions of a slot, which never holds more than the model's context.
    """
    precision, settings = profile.precision, profile.calibration
    recipe: dict[str, Any] = {}
    if precision.weights in CALIBRATED_WEIGHTS:
        recipe["weights"] = precision.weights
    if precision.weights == BLOCK_PRECISION:
        recipe |= {"block_size": precision.block_size, "awq": settings.awq}
    if precision.kv in CALIBRATED_KV:
        capacity = min(profile.limits.capacity, model.max_position_embeddings)
        recipe |= {"kv": precision.kv, "granularity": settings.kv, "capacity": capacity}
    return Recipe(**recipe)


def require_divisible(recipe: Recipe, model: ModelConfig) -> None:
    """Raise CalibrationError where a linear's inputs are not whole blocks: AWQ has no padding."""
    if recipe.block_size is None:
        return
    widths = {
        "hidden_size": model.hidden_size,
        "the attention's width": model.query_size,
        "intermediate_size": model.intermediate_size,
    }
    for name, width in widths.items():
        if width % recipe.block_size:
            fitting = [size for size in BLOCK_SIZES if not any(w % size for w in widths.values())]
            advice = f"use block size {' or '.join(map(str, fitting))}" if fitting else "use int8"
            raise CalibrationError(
                f"int4_awq with block size {recipe.block_size}: {name} {width} is no multiple of "
                f"it; {advice}, or weights int4_rtn, which pads"
            )
