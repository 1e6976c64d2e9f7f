"""An answer on the terminal: streamed as it comes, or one JSON document."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.failure import CliError
from edgellama.runtime.completion import Completion, Output
from edgellama.runtime.event import Delta, End, Event, FinishReason, TokenLogprobs
from edgellama.runtime.request import Request
from edgellama.runtime.tools import ToolCall

if TYPE_CHECKING:  # the engine brings numpy and a runtime: not for `--help`
    from edgellama.runtime.engine import Engine


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


def print_stream(stream: Iterable[Delta]) -> tuple[str, tuple[ToolCall, ...]]:
    """Write the text as it comes and each call on a line of its own; returns all of both."""
    pieces: list[str] = []
    calls: list[ToolCall] = []
    is_line_open = True
    for delta in stream:
        pieces.append(delta.text)
        click.echo(delta.text, nl=False)
        is_line_open = is_line_open or bool(delta.text)
        for call in delta.tool_calls:
            calls.append(call)
            if "".join(pieces) and is_line_open:
                click.echo()
            click.echo(_call_line(call))
            is_line_open = False
    if is_line_open:
        click.echo()
    return "".join(pieces), tuple(calls)


def _call_document(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "name": call.name, "arguments": json.loads(call.arguments)}


def _call_line(call: ToolCall) -> str:
    return json.dumps(_call_document(call), ensure_ascii=False)


def print_outputs(answer: Completion) -> None:
    """Write the texts of several outputs and each call on a line, behind the output's index."""
    for index, output in enumerate(answer.outputs):
        if output.text or not output.tool_calls:
            click.echo(f"[{index}] {output.text}")
        for call in output.tool_calls:
            click.echo(f"[{index}] {_call_line(call)}")


def as_document(
    answer: Completion, *, logprobs: bool = False, tools: bool = False
) -> dict[str, Any]:
    """Return `token_ids`, `text`, `finish_reason`, `usage`; `logprobs`, `tool_calls` if asked for.

    `tools` says that some were on offer. Of several outputs the document has a list `outputs` of
    these, beside the `usage` of all. It has `prompt_logprobs`, null for the first token, when the
    answer has them.
    """
    usage = {
        "prompt_tokens": answer.usage.prompt_tokens,
        "output_tokens": answer.usage.output_tokens,
        "cached_prompt_tokens": answer.usage.cached_prompt_tokens,
    }
    whole: dict[str, Any] = {"usage": usage}
    if answer.prompt_logprobs:
        whole["prompt_logprobs"] = [row and _scores(row) for row in answer.prompt_logprobs]
    outputs = [_document(output, logprobs, tools) for output in answer.outputs]
    if len(outputs) > 1:
        return {"outputs": outputs, **whole}
    return {**outputs[0], **whole}


def _document(output: Output, logprobs: bool, tools: bool) -> dict[str, Any]:
    return {
        "token_ids": list(output.token_ids),
        "text": output.text,
        "finish_reason": output.finish_reason.value,
        **({"logprobs": _rows(output)} if logprobs else {}),
        **({"tool_calls": [_call_document(call) for call in output.tool_calls]} if tools else {}),
    }


def _rows(output: Output) -> list[dict[str, Any]]:
    return [
        {"token_id": token, **_scores(row)}
        for token, row in zip(output.token_ids, output.logprobs, strict=True)
    ]


def _scores(row: TokenLogprobs) -> dict[str, Any]:
    top = [{"token_id": other, "logprob": value} for other, value in row.top]
    return {"logprob": row.chosen, "top": top}
