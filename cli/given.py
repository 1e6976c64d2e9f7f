"""Command line options for what a build quantises with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

if TYPE_CHECKING:  # its module imports torch, and a usage error must come at once
    from edgellama.optimize.quantization import Given

PATH = click.Path(path_type=Path)


class MakeGiven(Protocol):
    """Makes the record once the slow imports may come."""

    def __call__(self, *, exact: bool = False) -> Given:
        """Return what was given."""


def given_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `Given`; the command receives a function `given` that makes it."""

    @click.option("--scales", type=PATH, help="Scales that `edgellama calibrate` wrote.")
    @click.option(
        "--calibration-text",
        "text",
        type=PATH,
        help="Text, JSONL or a folder to measure scales on; a built-in text by default.",
    )
    @click.option("--calibration-split", "split", help="What separates its documents.")
    @functools.wraps(command)
    def wrapped(
        *args: Any, scales: Path | None, text: Path | None, split: str | None, **kwargs: Any
    ) -> None:
        if scales is not None and text is not None:
            raise click.UsageError("--scales and --calibration-text exclude each other; give one")
        if split is not None and text is None:
            raise click.UsageError("--calibration-split needs --calibration-text")

        def given(*, exact: bool = False) -> Given:
            for option, path in (("--scales", scales), ("--calibration-text", text)):
                if path is not None and not path.exists():
                    raise FileNotFoundError(f"{option} {path} does not exist")

            from edgellama.optimize.quantization import Given

            return Given(scales, text, split, exact)

        command(*args, given=given, **kwargs)

    return wrapped


def checkpoint_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--adapter` and `--exact`, which change how a checkpoint is read."""
    adapter = click.option("--adapter", help="PEFT LoRA adapter to merge: a folder or a hub id.")
    exact = click.option(
        "--exact", is_flag=True, help="Refuse a quantised checkpoint that would be rounded again."
    )
    return adapter(exact(command))
