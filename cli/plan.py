"""`edgellama plan`: memory, limits and the bound of an engine's speed, before any work."""

from __future__ import annotations

import click

from edgellama.cli.override import Override, override_options
from edgellama.cli.size import size
from edgellama.cli.verb import Verb, print_json
from edgellama.profiles.ceiling import Ceiling, DecodeStep
from edgellama.profiles.model import read_model_config
from edgellama.profiles.plan import Plan, make_plan, require_fit
from edgellama.profiles.profile import Profile, load_profile


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
    for name, text in _rows(source, wanted, plan):
        click.echo(f"{name:<12} {text}")
    require_fit(config, wanted)


def _rows(source: str, wanted: Profile, plan: Plan) -> list[tuple[str, str]]:
    precision = wanted.precision
    rows = [
        ("model", f"{source}, {plan.parameters / 1e6:.1f} M parameters"),
        ("target", f"{wanted.build.target}, {wanted.build.backend}"),
        (
            "precision",
            f"{precision.weights}, tables {precision.embedding}, computes {precision.compute}"
            + (f", large steps {precision.batch_weights}" if precision.batch_weights else ""),
        ),
        (
            "weights",
            f"{size(plan.weight_bytes)} = linears {size(plan.linear_bytes)}, tables "
            f"{size(plan.table_bytes)}, norms {size(plan.norm_bytes)}"
            + (f"; of large steps {size(plan.batch_bytes)} more" if plan.batch_bytes else ""),
        ),
        (
            "KV cache",
            f"{size(plan.kv_bytes)} = {plan.slots} slots x {plan.capacity} tokens "
            f"x {plan.kv_bytes_per_token} B ({precision.kv})",
        ),
        (
            "activations",
            f"{size(plan.activation_bytes)} = hidden {size(plan.hidden_bytes)}, scores "
            f"{size(plan.score_bytes)}, logits {size(plan.logit_bytes)}",
        ),
        *([("prefix store", size(plan.store_bytes))] if plan.store_bytes else []),
        ("total", f"{size(plan.total_bytes)} of {size(plan.memory_bytes)}"),
    ]
    return rows + ([] if plan.ceiling is None else _ceiling_rows(plan.ceiling))


def _ceiling_rows(ceiling: Ceiling) -> list[tuple[str, str]]:
    def text(step: DecodeStep) -> str:
        return (
            f"{step.ms:.1f} ms, {step.tokens_per_s:.0f} tokens/s: {step.rows} x {step.context} "
            f"tokens read {size(step.bytes)} at {ceiling.bandwidth_gb_s:g} GB/s"
        )

    steps = (ceiling.first, ceiling.alone, ceiling.full)
    return [("decode >=" if step is steps[0] else "", text(step)) for step in steps]
