"""Command line options for the rule that an answer's text obeys."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgellama.cli.failure import CliError
from edgellama.cli.given import PATH
from edgellama.runtime.guide import Guide


def guide_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options; the command receives `guide`, a Guide, or None where none is given."""

    @click.option("--json-schema", type=PATH, help="File of a JSON schema that the answer obeys.")
    @click.option("--regex", help="Regular expression that the whole answer matches.")
    @click.option("--grammar", type=PATH, help="File of a Lark grammar of the answer.")
    @click.option("--choice", "choices", multiple=True, help="One of the answers; repeatable.")
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        json_schema: Path | None,
        regex: str | None,
        grammar: Path | None,
        choices: tuple[str, ...],
        **others: Any,
    ) -> None:
        guide = None
        if json_schema is not None or regex is not None or grammar is not None or choices:
            guide = Guide(_text(json_schema), regex, _text(grammar), choices or None)
        command(*args, guide=guide, **others)

    return wrapped


def _text(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{file} cannot be read as a text in UTF-8: {error}") from error
