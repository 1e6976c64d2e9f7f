"""The click command class of every verb: `--json`, and errors in one line instead of a traceback.

With `--json` standard output carries exactly one JSON document; an error goes to standard error
as `{"error": {...}}`. Exit codes: 0 done, 1 error, 2 wrong usage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import click

from edgellama.cli.failure import Failure, describe


class Verb(click.Command):
    """A command with the flag `--json`, passed to the function as `as_json`."""

    JSON = "as_json"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(self.json_option())

    def json_option(self) -> click.Option:
        """Return the option that asks for JSON; its value is true where that is asked for."""
        text = "One JSON document on standard output."
        return click.Option(["--json", self.JSON], is_flag=True, help=text)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options; one given twice is wrong usage, for one of the two would be ignored."""
        as_json = any(each.partition("=")[0] == "--json" for each in args)
        try:
            _, _, order = self.make_parser(ctx).parse_args(args=list(args))
            values = [item for item in order if isinstance(item, click.Option)]
            for option in values:
                if not (option.multiple or option.is_flag) and values.count(option) > 1:
                    raise click.UsageError(f"{option.opts[0]} is given twice; give it once", ctx)
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            _wrong_usage(ctx, error, as_json=as_json)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; the user's mistakes end it with exit code 1, our bugs with a traceback."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            _wrong_usage(ctx, error, as_json=ctx.params[self.JSON])
        except Exception as error:
            failure = describe(error)
            if failure is None:
                raise
            if ctx.params[self.JSON]:
                _print_error(failure)
            else:
                click.echo(f"error: {failure.message}", err=True)
            ctx.exit(1)


def _wrong_usage(ctx: click.Context, error: click.UsageError, *, as_json: bool) -> NoReturn:
    """End with exit code 2: the document with `--json`, click's own lines without."""
    if not as_json:
        raise error
    _print_error(Failure(type(error).__name__, error.format_message()))
    ctx.exit(2)


def _print_error(failure: Failure) -> None:
    click.echo(json.dumps({"error": failure.as_dict()}, ensure_ascii=False), err=True)


def print_json(document: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write the one JSON document of a verb."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
