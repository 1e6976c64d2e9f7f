"""Command line options that say how tokens are drawn and when a generation ends."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from edgellama.runtime.request import MAX_LOGPROBS, MAX_OUTPUTS, Sampling, Stop

_SAMPLING = (
    ("--temperature", float, "0 is greedy."),
    ("--top-k", int, "0 is off."),
    ("--top-p", float, "1 is off."),
    ("--min-p", float, "0 is off."),
    ("--repetition-penalty", float, "1 is off."),
    ("--presence-penalty", float, "0 is off."),
    ("--frequency-penalty", float, "0 is off."),
    ("--seed", int, "Default: a fresh one."),
)


def sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options; the command receives `sampling` (the given fields only) and `stop`.

    What is not given is the model's own default, as for a client of the server.
    """

    @functools.wraps(command)
    def wrapped(
        *args: Any,
        max_new_tokens: int | None,
        min_new_tokens: int,
        strings: tuple[str, ...],
        stop_ids: tuple[int, ...],
        bad_words: tuple[str, ...],
        ignore_eos: bool,
        **kwargs: Any,
    ) -> None:
        names = [flag[2:].replace("-", "_") for flag, _, _ in _SAMPLING]
        values = {name: kwargs.pop(name) for name in names}
        given = {name: value for name, value in values.items() if value is not None}
        if bad_words:
            given["bad_words"] = bad_words
        Sampling(**given)  # refuses a bad value before an engine is loaded
        stop = Stop(
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            strings=strings,
            token_ids=stop_ids,
            ignore_eos=ignore_eos,
        )
        command(*args, sampling=given, stop=stop, **kwargs)

    decorated: Callable[..., None] = wrapped
    for option in reversed(
        (
            click.option("--max-new-tokens", type=int, help="Default: until the slot is full."),
            click.option("--min-new-tokens", type=int, default=0, help="No stop before these."),
            *(click.option(flag, type=kind, help=text) for flag, kind, text in _SAMPLING),
            click.option(
                "--bad-word", "bad_words", multiple=True, help="Never generated; repeatable."
            ),
            click.option("--stop", "strings", multiple=True, help="Text that ends it; repeatable."),
            click.option(
                "--stop-token-id", "stop_ids", type=int, multiple=True, help="Repeatable."
            ),
            click.option("--ignore-eos", is_flag=True, help="Go on after the model's stop ids."),
        )
    ):
        decorated = option(decorated)
    return decorated


def n_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--n`: how many outputs are drawn from the prompt."""
    option = click.option(
        "--n",
        type=int,
        default=1,
        show_default=True,
        help=f"Outputs of the prompt, which is computed once; 1 to {MAX_OUTPUTS}.",
    )
    return option(command)


def logprobs_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--logprobs N`: 0 reports the drawn tokens only, n also the n most likely ones.

    And `--prompt-logprobs N`, the same of the prompt's own tokens.
    """
    drawn = click.option(
        "--logprobs", type=int, help=f"Most likely tokens, as JSON; 0 to {MAX_LOGPROBS}."
    )
    prompt = click.option(
        "--prompt-logprobs",
        type=int,
        help=f"The same in the place of the prompt's tokens; 0 to {MAX_LOGPROBS}.",
    )
    return drawn(prompt(command))
