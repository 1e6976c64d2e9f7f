"""What the verbs that load a server have in common: one option, and whose lengths are sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgellama.benchmark.lengths import Lengths
    from edgellama.profiles.profile import Slo

REQUESTS = click.option(
    "--requests",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="A rate lasts longer than --seconds until so many are due.",
)


def lengths_to_send(name: str | None, slo: Slo | None) -> Lengths:
    """Return the lengths that were asked for, else those of the service level, else chat's.

    Raises LengthsError for a name that is not known.
    """
    from edgellama.benchmark.lengths import CHAT, lengths_by_name

    return lengths_by_name(name or (slo.lengths if slo else CHAT))
