"""The click command class of every verb: `--json`, and errors in one line instead of a traceback.

With `--json` standard output carries exactly one JSON document; an error goes to standard error
as `{"error": {...}}`. Exit codes: 0 done, 1 error, 2 wrong usage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from edgellama.cli.failure import describe

_JSON = "as_json"


class Verb(click.Command):
    """A command with the flag `--json`, passed to the function as `as_json`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        text = "One JSON document on standard output."
        self.params.append(click.Option(["--json", _JSON], is_flag=True, help=text))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; the user's mistakes end it with exit code 1, our bugs with a traceback."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            failure = describe(error)
            if failure is None:
                raise
            if ctx.params[_JSON]:
                document = {"error": failure.as_dict()}
                click.echo(json.dumps(document, ensure_ascii=False), err=True)
            else:
                click.echo(f"error: {failure.message}", err=True)
            ctx.exit(1)


def print_json(document: Mapping[str, Any]) -> None:
    """Write the one JSON document of a verb."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
