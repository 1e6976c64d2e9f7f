"""The user's messages of a conversation, from a terminal or a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TextIO

import click


def turns(stream: TextIO) -> Iterator[str]:
    """Yield one message a line until an empty line or the end; a terminal sees a prompt."""
    while True:
        if stream.isatty():
            click.echo("> ", nl=False, err=True)
        line = stream.readline().strip()
        if not line:
            return
        yield line
