"""Makes the committed length lists: python -m edgellama.benchmark.chat_lengths FOLDER.

No data set of conversations can be shipped, so the lengths of chats are drawn: lognormal, as those
of collected chats are, with medians near theirs and a long tail.
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

SEED, PAIRS = 2026, 200
PROMPT_MEDIAN, PROMPT_SIGMA, PROMPT_RANGE = 100, 1.1, (4, 2048)
OUTPUT_MEDIAN, OUTPUT_SIGMA, OUTPUT_RANGE = 180, 0.9, (4, 1024)
# Of the shared-prefix mix: three of four requests begin with one of these.
PREFIXES, PREFIX_TOKENS = 4, 256
HEADS = "prompt_tokens,output_tokens,prefix,prefix_tokens"


def chat_list() -> str:
    """Return the file `chat.csv`."""
    rows = [f"{prompt},{output},," for prompt, output in _pairs()]
    return "\n".join((*_origin(), HEADS, *rows, ""))


def shared_prefix_list() -> str:
    """Return the file `shared-prefix.csv`: the same pairs, the prefix before the prompt's own."""
    rows = []
    for number, (prompt, output) in enumerate(_pairs()):
        prefix = number % PREFIXES
        shared = f"{prefix},{PREFIX_TOKENS}" if prefix else ","
        rows.append(f"{prompt},{output},{shared}")
    note = (
        f"# Of {PREFIXES} requests {PREFIXES - 1} begin with {PREFIX_TOKENS} tokens that all "
        "requests of that prefix share; prompt_tokens come after them."
    )
    return "\n".join((*_origin(), note, HEADS, *rows, ""))


def _origin() -> tuple[str, str]:
    return (
        f"# Drawn by edgellama.benchmark.chat_lengths: {PAIRS} lognormal pairs, seed {SEED}.",
        f"# prompt median {PROMPT_MEDIAN}, sigma {PROMPT_SIGMA}, within {PROMPT_RANGE}; "
        f"output median {OUTPUT_MEDIAN}, sigma {OUTPUT_SIGMA}, within {OUTPUT_RANGE}.",
    )


def _pairs() -> list[tuple[int, int]]:
    draw = random.Random(SEED)

    def length(median: int, sigma: float, bounds: tuple[int, int]) -> int:
        value = round(draw.lognormvariate(math.log(median), sigma))
        return min(max(value, bounds[0]), bounds[1])

    return [
        (
            length(PROMPT_MEDIAN, PROMPT_SIGMA, PROMPT_RANGE),
            length(OUTPUT_MEDIAN, OUTPUT_SIGMA, OUTPUT_RANGE),
        )
        for _ in range(PAIRS)
    ]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "chat.csv").write_text(chat_list(), encoding="utf-8")
    (folder / "shared-prefix.csv").write_text(shared_prefix_list(), encoding="utf-8")
