"""`edgellama chat`: a conversation with an engine in this process."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import click

from edgellama.cli.answer import as_document, deltas, print_stream
from edgellama.cli.engine import engine_directory
from edgellama.cli.greedy_form import greedy_form_option
from edgellama.cli.sampling import sampling_options
from edgellama.cli.tools import tools_options
from edgellama.cli.turns import turns
from edgellama.cli.verb import Verb, print_json
from edgellama.runtime.request import Request, Stop
from edgellama.runtime.tools import Toolset


@click.command("chat", cls=Verb)
@click.argument("engine")
@click.option("--system", help="Instructions before the first message.")
@sampling_options
@tools_options
@click.option("--threads", type=int, help="Compute threads; the profile's by default.")
@greedy_form_option
def command(
    engine: str,
    system: str | None,
    sampling: dict[str, Any],
    stop: Stop,
    tools: Toolset | None,
    tool_choice: str,
    threads: int | None,
    greedy_form: str | None,
    as_json: bool,
) -> None:
    """Talk with ENGINE, a directory or the name of a built profile.

    Each line of standard input is a message; an empty line or the end of input ends the talk.
    After calls of tools each line is the result of one, in their order.
    """
    directory = engine_directory(engine)

    from edgellama.cli.talk import Talk
    from edgellama.runtime.engine import Engine

    talk = Talk(system)
    answers = []
    with Engine.load(directory, threads=threads, greedy_form=greedy_form) as loaded:
        drawing = replace(loaded.codec.generation.default_sampling, **sampling)
        for line in turns(sys.stdin):
            if not talk.hear(line):
                continue
            request = Request(
                prompt_ids=tuple(loaded.codec.encode_chat(talk.messages, tools=tools)),
                sampling=drawing,
                stop=stop,
                tools=tools,
                tool_choice=tool_choice,
            )
            if as_json:
                answer = loaded.generate(request)
                answers.append(as_document(answer, tools=tools is not None))
                talk.answered(answer.text, answer.tool_calls)
            else:
                talk.answered(*print_stream(deltas(loaded, request)))
    if as_json:
        print_json({"answers": answers})
