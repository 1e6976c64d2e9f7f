"""Option values that are whole numbers with commas between them."""

from __future__ import annotations

import math

import click


def token_ids(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """Return the ids of an option such as `--token-ids 1,2,3`; anything else is wrong usage."""
    if value is None:
        return None
    try:
        return tuple(int(piece) for piece in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list such as 1,2,3", ctx, param) from None


def counts(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Return the numbers, each at least 1, of an option such as `--rows 1,4,8`."""
    numbers = token_ids(ctx, param, value)
    assert numbers is not None
    if min(numbers) < 1:
        raise click.BadParameter(f"{value!r} has a number below 1", ctx, param)
    return numbers


def seconds(ctx: click.Context, param: click.Parameter, value: float) -> float:
    """Return a time of at least 0; less and NaN are wrong usage."""
    if not 0 <= value < math.inf:
        raise click.BadParameter(f"{value:g} is not a finite time of at least 0 s", ctx, param)
    return value
