"""The options that replace an engine's limits for one server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import click

from edgellama.profiles.profile import Limits
from edgellama.runtime.manifest import read_manifest

_Function = TypeVar("_Function", bound=Callable[..., object])


def limit_options(function: _Function) -> _Function:
    """Add `chunk_slowdown`, `draft_tokens` and `prefix_store_mib`; None is the profile's."""
    for option in (
        click.option(
            "--prefix-store",
            "prefix_store_mib",
            type=click.IntRange(min=0),
            metavar="MIB",
            help="Memory for prompts that no slot has room for; the profile's by default.",
        ),
        click.option(
            "--draft-tokens",
            type=click.IntRange(min=0),
            help="Most tokens guessed for a request alone, 0 for none; the profile's by default.",
        ),
        click.option(
            "--chunk-slowdown",
            type=click.FloatRange(min=1.0, min_open=True),
            help="How many times longer a chunk may make a step; the profile's by default.",
        ),
    ):
        function = option(function)
    return function


def limits_of(
    directory: Path,
    chunk_slowdown: float | None,
    draft_tokens: int | None,
    prefix_store_mib: int | None,
) -> Limits:
    """Return an engine's limits with what the options say; raises EngineError, ProfileError."""
    limits = read_manifest(directory).profile.limits
    if chunk_slowdown is not None:
        limits = replace(limits, chunk_slowdown=chunk_slowdown)
    if draft_tokens is not None:
        limits = replace(limits, draft_tokens=draft_tokens or None)
    if prefix_store_mib is not None:
        limits = replace(limits, prefix_store_mib=prefix_store_mib)
    return limits
