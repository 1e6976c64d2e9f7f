"""`edgellama trace`: the last steps of a server, as a table or as a trace to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgellama.cli.client import server_options
from edgellama.cli.failure import CliError
from edgellama.cli.file_verb import STANDARD_OUTPUT, FileVerb, require_writable, write_json

if TYPE_CHECKING:
    from edgellama.runtime.step_record import StepRecord


@click.command("trace", cls=FileVerb)
@server_options
@click.option("--last", type=click.IntRange(min=1), help="Steps; all that it remembers by default.")
def command(target: str, timeout: float, last: int | None, as_json: Path | None) -> None:
    """Show where the time of a server's last steps went, and why they did no more.

    With --json FILE the steps go there in the Trace Event Format: open it in ui.perfetto.dev or
    chrome://tracing. It names requests by their ids and has nothing of their texts.
    """
    require_writable(as_json)

    from edgellama.grpc_service.client import Client
    from edgellama.runtime.chrome_trace import chrome_trace

    with Client(target) as client:
        steps = client.steps(last=last, timeout=timeout)
        model = client.model_info(timeout=timeout).model
    if not steps:
        raise CliError(f"{target} has run no step yet; send it a request first")
    if as_json != STANDARD_OUTPUT:
        _print(steps)
    if as_json is not None:
        write_json(chrome_trace(steps, f"edgellama {model}"), as_json)


def _print(steps: Sequence[StepRecord]) -> None:
    total = sum(step.parts.total for step in steps)
    first, last = steps[0], steps[-1]
    span = last.began + last.parts.total - first.began
    rows = sum(len(step.choice.rows) for step in steps)
    chunks = [step.choice.chunk.tokens for step in steps if step.choice.chunk is not None]
    lines = [
        ("steps", f"{first.index} to {last.index}, {total:.3g} s of {span:.3g} s"),
        ("rows", f"{rows / len(steps):.2f} a step"),
        ("chunks", f"{len(chunks)}, {sum(chunks)} tokens of prompts"),
        ("requests", f"{sum(s.admitted for s in steps)} admitted, "
         f"{sum(s.finished for s in steps)} finished, {sum(s.cancelled for s in steps)} cancelled"),
    ]  # fmt: skip
    if any(step.choice.saves or step.choice.restores for step in steps):
        saves = sum(step.choice.saves for step in steps)
        restores = sum(step.choice.restores for step in steps)
        lines.append(("prefix store", f"{saves} prefixes saved, {restores} restored"))
    for part in asdict(first.parts):
        spent = sum(getattr(step.parts, part) for step in steps)
        share = f"{1e3 * spent / len(steps):.3g} ms a step, {spent / total:.1%}"
        lines.append((part, share.replace("%", " %")))
    stalls = Counter(stall.value for step in steps for stall in step.choice.stalls)
    lines += [(f"stall {name}", f"{count} steps") for name, count in stalls.most_common()]
    for name, text in lines:
        click.echo(f"{name:<18} {text}")
