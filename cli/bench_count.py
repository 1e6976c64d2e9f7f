"""`edgellama bench count`: instructions of the parts of a step that are ours."""

from __future__ import annotations

import click

from edgellama.cli.engine import engine_directory
from edgellama.cli.progress import progress
from edgellama.cli.verb import Verb, print_json


@click.command("count", cls=Verb)
@click.argument("engine")
def count(engine: str, as_json: bool) -> None:
    """Count the instructions of scheduler, sampler and detokeniser (ENGINE's tokenizer).

    They do not drift with the machine as times do. Needs valgrind; takes some 10 s.
    """
    directory = engine_directory(engine)

    from edgellama.benchmark.instruction_counts import count_instructions

    with progress() as report:
        report("count instructions", 0, 0)
        result = count_instructions(directory)
    if as_json:
        print_json(result)
        return
    for part, number in result["instructions"].items():
        click.echo(f"{part:<12} {number:>12,} instructions: {result['work'][part]}")
    click.echo(", ".join(f"{name} {text}" for name, text in result["versions"].items()))
