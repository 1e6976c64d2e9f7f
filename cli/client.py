"""`edgellama client`: the verbs that talk to a server."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.answer import as_document, print_outputs, print_stream
from edgellama.cli.guide import guide_options
from edgellama.cli.numbers import seconds
from edgellama.cli.prompt import Prompt, prompt_options
from edgellama.cli.sampling import logprobs_option, n_option, sampling_options
from edgellama.cli.tools import tools_options
from edgellama.cli.turns import turns
from edgellama.cli.verb import Verb, print_json
from edgellama.runtime.guide import Guide
from edgellama.runtime.request import Stop
from edgellama.runtime.tools import Toolset

if TYPE_CHECKING:
    from edgellama.grpc_service.call import GenerateOptions


@click.group("client")
def command() -> None:
    """Talk to a server."""


def order_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Add `order`: what the server may share with and put before other requests."""

    @click.option("--priority", type=int, help="The greater starts first; -100 to 100.")
    @click.option("--tenant", help="Tenants of the same priority get the same share.")
    @click.option("--cache-salt", help="Prompts share what is cached with those of the same salt.")
    @functools.wraps(verb)
    def wrapped(
        *args: Any,
        priority: int | None,
        tenant: str | None,
        cache_salt: str | None,
        **others: Any,
    ) -> None:
        order = {"priority": priority, "tenant": tenant, "cache_salt": cache_salt}
        verb(*args, order=order, **others)

    return wrapped


def server_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Add `--target` and `--timeout`."""
    target = click.option("--target", required=True, help="HOST:PORT of the server.")
    timeout = click.option(
        "--timeout",
        type=float,
        default=300.0,
        show_default=True,
        callback=seconds,
        help="Seconds.",
    )
    return target(timeout(verb))


@command.command("generate", cls=Verb)
@server_options
@prompt_options
@sampling_options
@logprobs_option
@n_option
@guide_options
@tools_options
@order_options
def generate(
    target: str,
    timeout: float,
    prompt: Prompt,
    sampling: dict[str, Any],
    stop: Stop,
    logprobs: int | None,
    prompt_logprobs: int | None,
    n: int,
    guide: Guide | None,
    tools: Toolset | None,
    tool_choice: str,
    order: dict[str, Any],
    as_json: bool,
) -> None:
    """Generate one answer on a server."""
    prompt.check_tools(tools)
    from edgellama.grpc_service.client import Client
    from edgellama.runtime.chat import ChatMessage

    given: str | tuple[int, ...] | list[ChatMessage]
    if prompt.ids is not None:
        given = prompt.ids
    elif prompt.text is not None:
        given = prompt.text
    else:
        assert prompt.chat is not None
        given = [ChatMessage("user", prompt.chat)]
    options = _options(sampling, stop, order, tools, tool_choice)
    options["top_logprobs"] = logprobs
    options["n"] = n
    options["prompt_logprobs"] = prompt_logprobs
    if guide is not None:
        options.update(asdict(guide))  # type: ignore[typeddict-item]
    with Client(target) as client:
        if as_json or logprobs is not None or prompt_logprobs is not None:
            answer = client.generate(given, timeout=timeout, **options)
            print_json(as_document(answer, logprobs=logprobs is not None, tools=tools is not None))
        elif n > 1:
            print_outputs(client.generate(given, timeout=timeout, **options))
        else:
            with client.stream(given, timeout=timeout, **options) as stream:
                print_stream(stream)


@command.command("chat", cls=Verb)
@server_options
@click.option("--system", help="Instructions before the first message.")
@sampling_options
@tools_options
@order_options
def chat(
    target: str,
    timeout: float,
    system: str | None,
    sampling: dict[str, Any],
    stop: Stop,
    tools: Toolset | None,
    tool_choice: str,
    order: dict[str, Any],
    as_json: bool,
) -> None:
    """Talk with a server; each line of standard input is a message, an empty line ends it.

    After calls of tools each line is the result of one, in their order.
    """
    from edgellama.cli.talk import Talk
    from edgellama.grpc_service.client import Client

    talk = Talk(system)
    answers = []
    options = _options(sampling, stop, order, tools, tool_choice)
    with Client(target) as client:
        for line in turns(sys.stdin):
            if not talk.hear(line):
                continue
            with client.stream(talk.messages, timeout=timeout, **options) as stream:
                if as_json:
                    for _ in stream:
                        pass
                    answer = stream.completion()
                    answers.append(as_document(answer, tools=tools is not None))
                    talk.answered(answer.text, answer.tool_calls)
                else:
                    talk.answered(*print_stream(stream))
    if as_json:
        print_json({"answers": answers})


@command.command("info", cls=Verb)
@server_options
def info(target: str, timeout: float, as_json: bool) -> None:
    """Show the model of a server, its defaults and its limits."""
    from google.protobuf.json_format import MessageToDict

    from edgellama.grpc_service.client import Client

    with Client(target) as client:
        message = client.model_info(timeout=timeout)
    document = MessageToDict(message, preserving_proto_field_name=True)
    if as_json:
        print_json(document)
        return
    for name, value in document.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        click.echo(f"{name:<24} {text}")


def _options(
    sampling: dict[str, Any],
    stop: Stop,
    order: dict[str, Any],
    tools: Toolset | None,
    tool_choice: str,
) -> GenerateOptions:
    """Return the client's keyword arguments; only what was given, so the server's defaults hold."""
    options: GenerateOptions = {**sampling, **order}  # type: ignore[typeddict-item]
    if stop.max_new_tokens is not None:
        options["max_new_tokens"] = stop.max_new_tokens
    options["min_new_tokens"] = stop.min_new_tokens
    options["stop"] = stop.strings
    options["stop_token_ids"] = stop.token_ids
    options["ignore_eos"] = stop.ignore_eos
    if tools is not None:
        options["tools"] = tools.tools
        options["builtin_tools"] = tools.builtin_tools
        options["tool_choice"] = tool_choice
    return options
