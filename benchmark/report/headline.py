"""The figures that come first: how near the ceilings, how soon, how fast, how many."""

from __future__ import annotations

from dataclasses import dataclass

from edgellama.benchmark.report.document import Run
from edgellama.benchmark.report.latency_part import LatencyPart, RequestRow
from edgellama.benchmark.report.number import EN_DASH, TIMES, milliseconds, number, percent
from edgellama.benchmark.report.serve_part import ServePart


@dataclass(frozen=True)
class Tile:
    """A figure with its unit, what it is, and what it was measured on."""

    value: str
    unit: str
    name: str
    note: str


def headline(run: Run) -> list[Tile]:
    """Return the tiles of what was measured, in the order of the page."""
    tiles = []
    if run.latency is not None:
        tiles += [_decode(run.latency), _prefill(run.latency), *_requests(run.latency)]
    if run.serve is not None:
        tiles.append(_knee(run.serve))
    return [tile for tile in tiles if tile is not None]


def lightest(rows: tuple[RequestRow, ...] | None) -> RequestRow | None:
    """Return the cell with the fewest rows and, of those, the shortest prompt."""
    return min(rows or (), key=lambda row: (row.rows, row.prompt_tokens), default=None)


def _decode(part: LatencyPart) -> Tile | None:
    name = "of the read bandwidth, decode"
    step = min(part.steps or (), key=lambda row: (row.rows, row.context), default=None)
    if step is not None and step.share is not None and part.ceilings is not None:
        note = (
            f"{step.rows} row{'s'[: step.rows > 1]} at context {step.context:,}: "
            f"{number(step.gb_s.median)} of {number(part.ceilings.read_gb_s.median)} GB/s"
        )
        return Tile(percent(step.share.median, 0), "", name, note)
    row = lightest(part.requests)
    if row is None or row.decode_share is None:
        return None
    return Tile(percent(row.decode_share.median, 0), "", name, _cell(row))


def _prefill(part: LatencyPart) -> Tile | None:
    found = [(row.prefill_share.median, row) for row in part.requests or () if row.prefill_share]
    if not found:
        return None
    most, best = max(found, key=lambda item: item[0])
    least = min(share for share, _ in found)
    used = f" ({part.ceilings.matrix_used})" if part.ceilings else ""
    note = f"best at {_cell(best)}"
    if len(found) > 1:
        note += f"; {percent(least, 0)} {EN_DASH} {percent(most, 0)} over {len(found)} cells"
    return Tile(percent(most, 0), "", f"of the matrix ceiling{used}, prefill", note)


def _requests(part: LatencyPart) -> list[Tile | None]:
    row = lightest(part.requests)
    if row is None:
        return []
    tiles: list[Tile | None] = []
    if row.ttft_ms.n:
        value, _, unit = milliseconds(row.ttft_ms.p50).partition(" ")
        note = f"p95 {milliseconds(row.ttft_ms.p95)}, {_cell(row)}"
        tiles.append(Tile(value, unit, "to the first token, p50", note))
    rates = [(one.tokens_per_s.median, one) for one in part.requests or () if one.tokens_per_s]
    if row.tokens_per_s is not None:
        note = _cell(row)
        most, best = max(rates, key=lambda item: item[0])
        if best is not row:
            note += f"; most: {number(most)} with {_cell(best)}"
        tiles.append(Tile(number(row.tokens_per_s.median), "tokens/s", "decode", note))
    return tiles


def _cell(row: RequestRow) -> str:
    return f"{row.rows} {TIMES} prompt of {row.prompt_tokens:,}"


def _knee(part: ServePart) -> Tile | None:
    if part.knee is None:
        return None
    note = f"{percent(part.knee.goodput_fraction)} of requests in time"
    if part.slo is not None:
        bounds = f"TTFT {milliseconds(part.slo.ttft_ms)}, ITL {milliseconds(part.slo.itl_ms)}"
        note += f": {bounds}"
    return Tile(number(part.knee.requests_per_s), "requests/s", "goodput knee", note)
