"""`edgellama generate`: one answer of an engine in this process."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.answer import as_document, deltas, print_outputs, print_stream
from edgellama.cli.engine import engine_directory
from edgellama.cli.guide import guide_options
from edgellama.cli.prompt import Prompt, prompt_options
from edgellama.cli.sampling import logprobs_option, n_option, sampling_options
from edgellama.cli.verb import Verb, print_json
from edgellama.runtime.guide import Guide
from edgellama.runtime.request import Request, Stop

if TYPE_CHECKING:
    from edgellama.runtime.text import TextCodec


@click.command("generate", cls=Verb)
@click.argument("engine")
@prompt_options
@sampling_options
@logprobs_option
@n_option
@guide_options
@click.option("--threads", type=int, help="Compute threads; the profile's by default.")
def command(
    engine: str,
    prompt: Prompt,
    sampling: dict[str, Any],
    stop: Stop,
    logprobs: int | None,
    prompt_logprobs: int | None,
    n: int,
    guide: Guide | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Generate with ENGINE, a directory or the name of a built profile."""
    directory = engine_directory(engine)

    from edgellama.runtime.engine import Engine

    with Engine.load(directory, threads=threads) as loaded:
        request = Request(
            prompt_ids=prompt_ids(loaded.codec, prompt),
            sampling=replace(loaded.codec.generation.default_sampling, **sampling),
            stop=stop,
            top_logprobs=logprobs,
            guide=guide,
            n=n,
            prompt_logprobs=prompt_logprobs,
        )
        # There is no text form of log-probabilities.
        if as_json or logprobs is not None or prompt_logprobs is not None:
            print_json(as_document(loaded.generate(request), logprobs=logprobs is not None))
        elif n > 1:
            print_outputs(loaded.generate(request))
        else:
            print_stream(deltas(loaded, request))


def prompt_ids(codec: TextCodec, prompt: Prompt) -> tuple[int, ...]:
    """Turn the prompt into token ids; raises InvalidRequestError."""
    if prompt.ids is not None:
        return prompt.ids
    if prompt.text is not None:
        return tuple(codec.encode(prompt.text))

    from edgellama.runtime.chat import ChatMessage

    assert prompt.chat is not None
    return tuple(codec.encode_chat([ChatMessage("user", prompt.chat)]))
