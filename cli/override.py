"""Command line options that change a profile for one build."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import click

from edgellama.profiles.profile import (
    BACKENDS,
    BATCH_PRECISIONS,
    BLOCK_SIZES,
    COMPUTE_PRECISIONS,
    FLOAT_PRECISIONS,
    KV_PRECISIONS,
    TABLE_PRECISIONS,
    WEIGHT_PRECISIONS,
    Precision,
    Profile,
    ProfileError,
)

NO_BATCH = "none"
BACKEND = click.Choice(BACKENDS)
BUNDLE_OPTION = click.option(
    "--bundle",
    is_flag=True,
    help="Write what a device needs to build the engine itself, with `edgellama finish`.",
)


@dataclass(frozen=True)
class Override:
    """Values that replace those of a profile; None keeps the profile's own."""

    precision: str | None = None
    embedding_precision: str | None = None
    kv_precision: str | None = None
    block_size: int | None = None
    slots: int | None = None
    capacity: int | None = None
    backend: str | None = None
    compute: str | None = None
    batch_precision: str | None = None

    def apply(self, profile: Profile) -> Profile:
        """Return the changed profile; raises ProfileError as a TOML file with the values would.

        A float precision is asked for to have no quantisation at all, so it covers the tables too;
        a quantised one leaves them as the profile says. Another `compute` is taken over by whatever
        had the old one: on a GPU the cache and what stays a float. The second form of the weights
        goes with `none`, and where the first is a float one, or the same, by this; the choice of a
        form for greedy requests goes with it.
        """
        tables = self.embedding_precision
        if tables is None and self.precision in FLOAT_PRECISIONS:
            tables = self.precision
        stored = {
            "weights": self.precision,
            "embedding": tables,
            "kv": self.kv_precision,
            "block_size": self.block_size,
        }
        limits = {"slots": self.slots, "capacity": self.capacity}
        precision = replace(self._batched(self._computed(profile.precision)), **_given(stored))
        kinds = {precision.weights, precision.embedding}
        if self.block_size is not None and kinds <= set(FLOAT_PRECISIONS):
            raise ProfileError(
                f"block_size is {self.block_size}, but weights and tables are "
                f"{' and '.join(sorted(kinds))}: nothing is quantised; leave it out or choose "
                "int8 or int4_rtn"
            )
        return replace(
            profile,
            build=replace(profile.build, **_given({"backend": self.backend})),
            precision=precision,
            limits=replace(profile.limits, **_given(limits)),
        )

    def _batched(self, precision: Precision) -> Precision:
        batch = self.batch_precision or precision.batch_weights
        covered = self.precision in (*FLOAT_PRECISIONS, batch)
        if batch == NO_BATCH or (self.batch_precision is None and covered):
            batch = None
        form = "fastest" if batch is None else precision.greedy_form
        return replace(precision, batch_weights=batch, greedy_form=form)

    def _computed(self, precision: Precision) -> Precision:
        if self.compute is None:
            return precision
        old = precision.compute
        taken: dict[str, Any] = {
            field: self.compute
            for field in ("weights", "embedding", "kv")
            if getattr(precision, field) == old
        }
        return replace(precision, compute=self.compute, **taken)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def override_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `Override`; the command receives them as one argument `override`."""
    precision = click.Choice(WEIGHT_PRECISIONS)
    block = click.Choice(BLOCK_SIZES)

    @click.option("--precision", type=precision, help="Weights; a float one also the tables.")
    @click.option(
        "--embedding-precision",
        type=click.Choice(TABLE_PRECISIONS),
        help="Embedding and head tables.",
    )
    @click.option("--kv-precision", type=click.Choice(KV_PRECISIONS), help="Key-value cache.")
    @click.option(
        "--batch-precision",
        type=click.Choice((*BATCH_PRECISIONS, NO_BATCH)),
        help="A second form of the weights, for large steps.",
    )
    @click.option("--block-size", type=block, help="Inputs that share a scale.")
    @click.option("--slots", type=int, help="Sequences in flight.")
    @click.option("--capacity", type=int, help="Tokens a slot holds.")
    @click.option(
        "--compute",
        type=click.Choice(COMPUTE_PRECISIONS),
        help="Float type between the operators, and of all that has the profile's.",
    )
    @click.option("--backend", type=BACKEND, help="Library that runs the engine.")
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        precision: str | None,
        embedding_precision: str | None,
        kv_precision: str | None,
        block_size: int | None,
        slots: int | None,
        capacity: int | None,
        backend: str | None,
        compute: str | None,
        batch_precision: str | None,
        **kwargs: Any,
    ) -> None:
        changes = Override(
            precision,
            embedding_precision,
            kv_precision,
            block_size,
            slots,
            capacity,
            backend,
            compute,
            batch_precision,
        )
        command(*args, override=changes, **kwargs)

    return wrapped
