"""An answer on the terminal: streamed as it comes, or one JSON document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

import click

from edgellama.cli.failure import CliError
from edgellama.runtime.request import (
    Delta,
    End,
    Event,
    FinishReason,
    Request,
    TokenLogprobs,
    Usage,
)

if TYPE_CHECKING:  # the engine brings numpy and a runtime: not for `--help`
    from edgellama.runtime.engine import Engine


class Completion(Protocol):
    """A whole answer, of an engine or of a client."""

    @property
    def token_ids(self) -> Sequence[int]:
        """All drawn tokens."""

    @property
    def text(self) -> str:
        """Their text."""

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended."""

    @property
    def usage(self) -> Usage:
        """Token counts."""

    @property
    def logprobs(self) -> Sequence[TokenLogprobs]:
        """One a token, where asked for."""


def deltas(engine: Engine, request: Request) -> Iterator[Delta]:
    """Yield the new output of a request as it comes; leaving early cancels the request.

    Raises what `Engine.submit` does, and CliError when the engine fails on the way.
    """
    queue: SimpleQueue[Event] = SimpleQueue()
    request_id = engine.submit(request, queue.put)
    try:
        while not isinstance(event := queue.get(), End):
            if isinstance(event, Delta):
                yield event
        if event.reason is FinishReason.ERROR:
            raise CliError(f"the engine failed: {event.error}")
    finally:
        engine.cancel(request_id)


def print_stream(stream: Iterable[Delta]) -> str:
    """Write the text as it comes and return all of it."""
    pieces = []
    for delta in stream:
        pieces.append(delta.text)
        click.echo(delta.text, nl=False)
    click.echo()
    return "".join(pieces)


def as_document(answer: Completion, *, logprobs: bool = False) -> dict[str, Any]:
    """Return `token_ids`, `text`, `finish_reason`, `usage`; and `logprobs` when asked for."""
    usage = answer.usage
    return {
        "token_ids": list(answer.token_ids),
        "text": answer.text,
        "finish_reason": answer.finish_reason.value,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "output_tokens": usage.output_tokens,
            "cached_prompt_tokens": usage.cached_prompt_tokens,
        },
        **({"logprobs": _rows(answer)} if logprobs else {}),
    }


def _rows(answer: Completion) -> list[dict[str, Any]]:
    return [
        {
            "token_id": token,
            "logprob": row.chosen,
            "top": [{"token_id": other, "logprob": value} for other, value in row.top],
        }
        for token, row in zip(answer.token_ids, answer.logprobs, strict=True)
    ]
