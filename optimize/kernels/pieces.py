"""Into how many pieces a past is cut: one rule for the launcher and for the plugin."""

from __future__ import annotations

MAX_PIECES = 64
# Lines of the tile that the rule counts with. A plugin says its output's shape before it knows
# which of its tiles is used; any number of pieces is right, this one is good for decoding.
PIECE_LINES = 16


def count_tiles(positions: int, padded_group: int, lines: int) -> int:
    """Return the tiles of `lines` lines that a row of `positions` tokens takes."""
    return -(-positions * padded_group // lines)


def count_pieces(programs: int, tiles: int, kv_heads: int, rows: int) -> int:
    """Return the pieces that bring a launch to about `programs` programs, at least 1.

    A launch has `tiles` x `kv_heads` x `rows` programs a piece, tiles of PIECE_LINES lines. More
    than MAX_PIECES would cost more to combine than they save. Where a past is cut, one piece more
    has the new tokens.
    """
    cuts = max(1, min(MAX_PIECES - 1, programs // (tiles * kv_heads * rows)))
    return cuts + min(cuts - 1, 1)


def cuts_pasts(programs: int | None, kv_heads: int) -> bool:
    """Whether pasts are cut at all: where the heads of one row are too few programs for the GPU."""
    return programs is not None and count_pieces(programs, 1, kv_heads, 1) > 1
