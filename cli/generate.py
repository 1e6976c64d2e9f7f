"""`edgellama generate`: one answer of an engine in this process."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.answer import as_document, deltas, print_outputs, print_stream
from edgellama.cli.engine import engine_directory
from edgellama.cli.greedy_form import greedy_form_option
from edgellama.cli.guide import guide_options
from edgellama.cli.prompt import Prompt, prompt_options
from edgellama.cli.sampling import logprobs_option, n_option, sampling_options
from edgellama.cli.tools import tools_options
from edgellama.cli.verb import Verb, print_json
from edgellama.runtime.guide import Guide
from edgellama.runtime.request import Request, Stop
from edgellama.runtime.tools import Toolset

if TYPE_CHECKING:
    from edgellama.runtime.text import TextCodec


@click.command("generate", cls=Verb)
@click.argument("engine")
@prompt_options
@sampling_options
@logprobs_option
@n_option
@guide_options
@tools_options
@click.option("--threads", type=int, help="Compute threads; the profile's by default.")
@greedy_form_option
def command(
    engine: str,
    prompt: Prompt,
    sampling: dict[str, Any],
    stop: Stop,
    logprobs: int | None,
    prompt_logprobs: int | None,
    n: int,
    guide: Guide | None,
    tools: Toolset | None,
    tool_choice: str,
    threads: int | None,
    greedy_form: str | None,
    as_json: bool,
) -> None:
    """Generate with ENGINE, a directory or the name of a built profile."""
    prompt.check_tools(tools)
    directory = engine_directory(engine)

    from edgellama.runtime.engine import Engine

    with Engine.load(directory, threads=threads, greedy_form=greedy_form) as loaded:
        request = Request(
            prompt_ids=prompt_ids(loaded.codec, prompt, tools),
            sampling=replace(loaded.codec.generation.default_sampling, **sampling),
            stop=stop,
            top_logprobs=logprobs,
            guide=guide,
            n=n,
            prompt_logprobs=prompt_logprobs,
            tools=tools,
            tool_choice=tool_choice,
        )
        # There is no text form of log-probabilities.
        if as_json or logprobs is not None or prompt_logprobs is not None:
            answer = loaded.generate(request)
            print_json(as_document(answer, logprobs=logprobs is not None, tools=tools is not None))
        elif n > 1:
            print_outputs(loaded.generate(request))
        else:
            print_stream(deltas(loaded, request))


def prompt_ids(codec: TextCodec, prompt: Prompt, tools: Toolset | None) -> tuple[int, ...]:
    """Turn the prompt into token ids; raises InvalidRequestError."""
    if prompt.ids is not None:
        return prompt.ids
    if prompt.text is not None:
        return tuple(codec.encode(prompt.text))

    from edgellama.runtime.chat import ChatMessage

    assert prompt.chat is not None
    return tuple(codec.encode_chat([ChatMessage("user", prompt.chat)], tools=tools))
