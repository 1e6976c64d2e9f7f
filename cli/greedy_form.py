"""The option that says which form of the weights greedy requests take."""

from __future__ import annotations

import click

from edgellama.profiles.profile import GREEDY_FORMS

greedy_form_option = click.option(
    "--greedy-form",
    type=click.Choice(GREEDY_FORMS),
    help="Of two forms of the weights, that of temperature 0; the profile's by default.",
)
