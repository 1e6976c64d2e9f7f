"""The prompt of one generation: exactly one of a text, a chat message and token ids."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from edgellama.cli.numbers import token_ids
from edgellama.runtime.tools import Toolset


@dataclass(frozen=True)
class Prompt:
    """What was given; two of the three are None."""

    text: str | None = None
    chat: str | None = None
    ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.text, self.chat, self.ids) if value is not None]
        if len(given) != 1:
            raise click.UsageError("give exactly one of --prompt, --chat and --token-ids")

    def check_tools(self, tools: Toolset | None) -> None:
        """Refuse tools that no chat template would show."""
        if tools is not None and self.chat is None:
            raise click.UsageError("--tools and --builtin-tool need --chat")


def prompt_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options; the command receives one argument `prompt`."""

    @click.option("--prompt", "text", help="Text to continue.")
    @click.option("--chat", help="A user's message to answer, through the chat template.")
    @click.option("--token-ids", "ids", callback=token_ids, help="Ids to continue, such as 1,2,3.")
    @functools.wraps(command)
    def wrapped(
        *args: Any, text: str | None, chat: str | None, ids: tuple[int, ...] | None, **kwargs: Any
    ) -> None:
        command(*args, prompt=Prompt(text, chat, ids), **kwargs)

    return wrapped
