"""What a reader must know before the figures: a busy machine, a ceiling beaten, what failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgellama.benchmark.report.document import Run
from edgellama.benchmark.report.figures import Series
from edgellama.benchmark.report.number import number, percent

DRIVER_LIMIT = 0.05  # of the smallest figure that is reported
_WIDE = 0.25  # a spread beyond this tells a change of that size from nothing
_FEW = 3  # measurements below which a spread says little


def notices(run: Run) -> list[str]:
    """Return the warnings of a run, none twice."""
    return list(dict.fromkeys([*_machine(run), *_ceilings(run), *_spreads(run), *_failures(run)]))


def _machine(run: Run) -> Iterator[str]:
    parts = (run.latency, run.serve, run.peers)
    found = [run.environment, *(part.environment for part in parts if part is not None)]
    for environment in found:
        for text in _warnings(environment or {}):
            yield f"{text[:1].upper()}{text[1:]}."


def _warnings(environment: Mapping[str, Any]) -> list[str]:
    said = environment.get("warnings") or []
    texts = list(map(str, said)) if isinstance(said, list) else [str(said)]
    busy = environment.get("busy")
    if busy:
        texts.append(busy if isinstance(busy, str) else "the machine was busy")
    return [text.rstrip(".") for text in texts if text]


def _ceilings(run: Run) -> Iterator[str]:
    part = run.latency
    if part is None:
        return
    shares = [row.share for row in part.steps or ()]
    for row in part.requests or ():
        shares += [row.prefill_share, row.decode_share]
    most = max((share.median for share in shares if share is not None), default=0.0)
    if most > 1:
        yield (
            f"A figure is {percent(most)} of its ceiling: the ceiling was measured too low, or "
            "the bytes are counted too high."
        )


def _spreads(run: Run) -> Iterator[str]:
    found = list(_series(run))
    wide = [one for one in found if one.spread is not None and one.spread > _WIDE]
    few = [one for one in found if one.n < _FEW]
    if wide:
        yield f"{len(wide)} of {len(found)} figures spread over more than {percent(_WIDE, 0)}."
    if few:
        yield f"{len(few)} of {len(found)} figures have fewer than {_FEW} measurements."


def _series(run: Run) -> Iterator[Series]:
    """Yield the series of the tables."""
    if run.latency is not None:
        for row in run.latency.requests or ():
            for one in (row.prefill_tokens_per_s, row.tokens_per_s):
                yield from () if one is None else (one,)
        yield from (step.ms for step in run.latency.steps or ())
    for peer in run.peers.rows if run.peers else ():
        yield from () if peer.value is None else (peer.value,)


def _failures(run: Run) -> Iterator[str]:
    if run.serve is not None:
        driver = run.serve.driver
        if driver is not None and driver.share_of_smallest > DRIVER_LIMIT:
            yield (
                f"The load driver takes {percent(driver.share_of_smallest)} of the smallest figure "
                f"that it reports; more than {percent(DRIVER_LIMIT, 0)} is too much."
            )
        # Beyond saturation a server must refuse; in the sweep below it, it must not.
        rows = (*(run.serve.closed or ()), *(run.serve.open or ()))
        lost = sum(sum((row.errors or {}).values()) for row in rows)
        if lost:
            sent = sum(row.requests for row in rows)
            yield f"{number(lost)} of {number(sent)} requests of the sweep ended with an error."
    if run.peers is not None:
        failed = [one.system for one in run.peers.systems if one.error is not None]
        if failed:
            yield f"Not measured: {', '.join(failed)}. The reasons are with the systems."
