"""The bounds that a served request must meet to count as good."""

from __future__ import annotations

from edgellama.benchmark.stream import StreamTimes
from edgellama.profiles.profile import Profile, Slo


class SloError(ValueError):
    """A profile that has no bounds."""


def slo_met(slo: Slo, times: StreamTimes) -> bool:
    """Return whether a complete answer met both bounds.

    `slo.itl_ms` bounds the mean of the request, its TPOT: one late token among hundreds is no
    failure. An answer of one token has none.
    """
    tpot = times.tpot
    return times.ttft * 1e3 <= slo.ttft_ms and (tpot is None or tpot * 1e3 <= slo.itl_ms)


def slo_of(profile: Profile) -> Slo:
    """Return the bounds under [slo] of a profile; raises SloError when it has none."""
    if profile.slo is None:
        raise SloError(
            f"profile {profile.name} has no [slo]; give --slo-ttft-ms and --slo-itl-ms, or add "
            "ttft_ms, itl_ms and source under [slo]"
        )
    return profile.slo
