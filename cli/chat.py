"""`edgellama chat`: a conversation with an engine in this process."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import click

from edgellama.cli.answer import as_document, deltas, print_stream
from edgellama.cli.engine import engine_directory
from edgellama.cli.sampling import sampling_options
from edgellama.cli.turns import turns
from edgellama.cli.verb import Verb, print_json
from edgellama.runtime.request import Request, Stop


@click.command("chat", cls=Verb)
@click.argument("engine")
@click.option("--system", help="Instructions before the first message.")
@sampling_options
@click.option("--threads", type=int, help="Compute threads; the profile's by default.")
def command(
    engine: str,
    system: str | None,
    sampling: dict[str, Any],
    stop: Stop,
    threads: int | None,
    as_json: bool,
) -> None:
    """Talk with ENGINE, a directory or the name of a built profile.

    Each line of standard input is a message; an empty line or the end of input ends the talk.
    """
    directory = engine_directory(engine)

    from edgellama.runtime.chat import ChatMessage
    from edgellama.runtime.engine import Engine

    messages = [] if system is None else [ChatMessage("system", system)]
    answers = []
    with Engine.load(directory, threads=threads) as loaded:
        drawing = replace(loaded.codec.generation.default_sampling, **sampling)
        for message in turns(sys.stdin):
            messages.append(ChatMessage("user", message))
            ids = tuple(loaded.codec.encode_chat(messages))
            request = Request(prompt_ids=ids, sampling=drawing, stop=stop)
            if as_json:
                answer = loaded.generate(request)
                answers.append(as_document(answer))
                text = answer.text
            else:
                text = print_stream(deltas(loaded, request))
            messages.append(ChatMessage("assistant", text))
    if as_json:
        print_json({"answers": answers})
