"""What a load showed, as one row of a report."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

from edgellama.benchmark.load import Load
from edgellama.benchmark.percentiles import percentiles_ms
from edgellama.benchmark.slo import slo_met
from edgellama.profiles.profile import Slo

_DIGITS = 4  # after the point, of rates


def load_row(load: Load, slo: Slo | None) -> dict[str, Any]:
    """Return rates, times and errors by their reason.

    Times are of the complete answers, from the scheduled send. `itl_ms` are the gaps between
    tokens, `icl_ms` those between messages. `goodput_per_s` are the complete answers a second that
    met both bounds, `goodput_fraction` their part of all requests; both are None without bounds,
    the fraction also where nothing was sent. `send_lag_ms` is how late the driver itself was, and
    `driver_cpu` the part of one core that it took.
    """
    complete = [sent.times for sent in load.sent if sent.error is None]
    tokens = sum(sent.times.tokens for sent in load.sent)
    good = None if slo is None else sum(slo_met(slo, times) for times in complete)
    fraction = None
    if good is not None and load.sent:
        fraction = round(good / len(load.sent), _DIGITS)
    return {
        "requests": len(load.sent),
        "completed": len(complete),
        "seconds": round(load.seconds, 3),
        "requests_per_s": round(len(complete) / load.seconds, _DIGITS),
        "output_tokens_per_s": round(tokens / load.seconds, 2),
        "ttft_ms": percentiles_ms([times.ttft for times in complete]),
        "itl_ms": percentiles_ms([gap for times in complete for gap in times.gaps]),
        "icl_ms": percentiles_ms(
            [after - before for t in complete for (before, _), (after, _) in pairwise(t.arrivals)]
        ),
        "tpot_ms": percentiles_ms([times.tpot for times in complete if times.tpot is not None]),
        "e2el_ms": percentiles_ms([sent.seconds for sent in load.sent if sent.error is None]),
        "send_lag_ms": percentiles_ms([sent.lag for sent in load.sent]),
        "driver_cpu": round(load.cpu_seconds / load.seconds, _DIGITS),
        "goodput_per_s": None if good is None else round(good / load.seconds, _DIGITS),
        "goodput_fraction": fraction,
        "errors": dict(sorted(Counter(s.error for s in load.sent if s.error is not None).items())),
    }
