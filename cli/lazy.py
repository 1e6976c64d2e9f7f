"""A command group that imports a verb's module only when the verb is looked up."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """Verbs from a table `name -> module`; the module's `command` is the verb."""

    def __init__(self, *args: Any, verbs: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.verbs = verbs

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; Ctrl-C ends it as a shell expects, with one line and 128 + SIGINT."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(128 + signal.SIGINT)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table: the order in which they are used."""
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's module; None for an unknown verb, which click then reports."""
        if cmd_name not in self.verbs:
            return None
        command = import_module(self.verbs[cmd_name]).command
        assert isinstance(command, click.Command), f"{cmd_name}: `command` is not a click command"
        return command
