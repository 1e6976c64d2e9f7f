"""The user's messages of a conversation, from a terminal or a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TextIO

import click

from edgellama.cli.failure import CliError


def turns(stream: TextIO | None) -> Iterator[str]:
    """Yield one message a line until an empty line or the end; a terminal sees a prompt.

    Raises CliError when the process has no standard input (None), or what comes is not UTF-8.
    """
    if stream is None:
        raise CliError("standard input is closed; send the messages through it, one a line")
    while True:
        if stream.isatty():
            click.echo("> ", nl=False, err=True)
        try:
            line = stream.readline().strip()
        except UnicodeDecodeError as error:
            raise CliError(f"standard input is not UTF-8: {error}") from None
        if not line:
            return
        yield line
