"""`edgellama plan`: memory and limits of an engine, before any work."""

from __future__ import annotations

import click

from edgellama.cli.override import Override, override_options
from edgellama.cli.size import size
from edgellama.cli.verb import Verb, print_json
from edgellama.profiles.model import read_model_config
from edgellama.profiles.plan import make_plan, require_fit
from edgellama.profiles.profile import load_profile


@click.command("plan", cls=Verb)
@click.argument("profile")
@click.option("--model", help="Checkpoint folder or hub id; the profile's own by default.")
@override_options
def command(profile: str, model: str | None, override: Override, as_json: bool) -> None:
    """Say what an engine for PROFILE will take, and fail when it does not fit."""
    wanted = override.apply(load_profile(profile))  # before the slow import: fails at once

    from edgellama.export.resolve import resolve_model

    source = model or wanted.model
    config = read_model_config(resolve_model(source, config_only=True))
    plan = make_plan(config, wanted)
    if as_json:
        require_fit(config, wanted)
        print_json({"model": source, **plan.as_dict()})
        return
    rows = (
        ("model", f"{source}, {plan.parameters / 1e6:.1f} M parameters"),
        ("precision", f"{wanted.precision.weights}, tables {wanted.precision.embedding}"),
        ("weights", size(plan.weight_bytes)),
        (
            "KV cache",
            f"{size(plan.kv_bytes)} = {plan.slots} slots x {plan.capacity} tokens "
            f"x {plan.kv_bytes_per_token} B ({wanted.precision.kv})",
        ),
        ("activations", size(plan.activation_bytes)),
        ("total", f"{size(plan.total_bytes)} of {size(plan.memory_bytes)}"),
    )
    for name, text in rows:
        click.echo(f"{name:<12} {text}")
    require_fit(config, wanted)
