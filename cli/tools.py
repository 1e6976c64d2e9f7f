"""Command line options for the tools that a model may call."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgellama.cli.failure import CliError
from edgellama.cli.given import PATH
from edgellama.runtime.tools import BUILTIN_TOOLS, Toolset, tools_from_json


def tools_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options; the command receives `tools`, a Toolset or None, and `tool_choice`."""

    @click.option("--tools", "file", type=PATH, help="JSON file of functions the model may call.")
    @click.option(
        "--builtin-tool",
        "builtin",
        multiple=True,
        type=click.Choice(BUILTIN_TOOLS),
        help="One that the model knows itself; repeatable.",
    )
    @click.option(
        "--tool-choice",
        default="auto",
        show_default=True,
        help="auto, none, required, or the name of the function to call.",
    )
    @functools.wraps(command)
    def wrapped(
        *args: Any, file: Path | None, builtin: tuple[str, ...], tool_choice: str, **others: Any
    ) -> None:
        tools = None
        if file is not None or builtin:
            tools = Toolset(() if file is None else tools_from_json(_json(file)), builtin)
        elif tool_choice != "auto":
            raise click.UsageError("--tool-choice needs --tools")
        command(*args, tools=tools, tool_choice=tool_choice, **others)

    return wrapped


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CliError(f"{file} cannot be read as JSON: {error}") from error
