"""One generation on a local engine, event by event, and the JSON of its outcome."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.failure import CliError
from edgellama.runtime.request import Delta, End, Event, FinishReason, Request, TokenLogprobs

if TYPE_CHECKING:  # the engine brings numpy and a runtime: not for `--help`
    from edgellama.runtime.engine import Engine


def events(engine: Engine, request: Request) -> Iterator[Event]:
    """Yield the events of a request up to its End; leaving early cancels it."""
    queue: SimpleQueue[Event] = SimpleQueue()
    request_id = engine.submit(request, queue.put)
    event: Event | None = None
    try:
        while not isinstance(event, End):
            event = queue.get()
            yield event
    finally:
        if not isinstance(event, End):
            engine.cancel(request_id)


def print_stream(stream: Iterator[Event]) -> tuple[str, End]:
    """Write the text as it comes; return all of it and the end. Raises CliError as `outcome`."""
    pieces = []
    for event in stream:
        if isinstance(event, Delta):
            pieces.append(event.text)
            click.echo(event.text, nl=False)
        elif isinstance(event, End):
            click.echo()
            _refuse_failed(event)
            return "".join(pieces), event
    raise AssertionError("the engine gave no End")


def outcome(stream: Iterator[Event], *, logprobs: bool) -> dict[str, Any]:
    """Collect a generation: `token_ids`, `text`, `finish_reason`, `usage`; and `logprobs` if asked.

    Raises CliError when the engine failed on the way.
    """
    ids: list[int] = []
    pieces: list[str] = []
    rows: list[TokenLogprobs] = []
    for event in stream:
        if isinstance(event, Delta):
            ids += event.token_ids
            pieces.append(event.text)
            rows += event.logprobs
        elif isinstance(event, End):
            _refuse_failed(event)
            return {
                "token_ids": ids,
                "text": "".join(pieces),
                "finish_reason": event.reason.value,
                "usage": {
                    "prompt_tokens": event.usage.prompt_tokens,
                    "output_tokens": event.usage.output_tokens,
                    "cached_prompt_tokens": event.usage.cached_prompt_tokens,
                },
                **({"logprobs": _plain(ids, rows)} if logprobs else {}),
            }
    raise AssertionError("the engine gave no End")


def _refuse_failed(end: End) -> None:
    if end.reason is FinishReason.ERROR:
        raise CliError(f"the engine failed: {end.error}")


def _plain(ids: Sequence[int], rows: Sequence[TokenLogprobs]) -> list[dict[str, Any]]:
    return [
        {
            "token_id": token,
            "logprob": row.chosen,
            "top": [{"token_id": other, "logprob": value} for other, value in row.top],
        }
        for token, row in zip(ids, rows, strict=True)
    ]
