"""The process whose memory is measured: python -m edgellama.benchmark.memory_worker ENGINE THREADS.

THREADS "-" takes the profile's. It does with the engine what takes most memory, and writes what
that took as one line of JSON.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import edgellama.runtime.ort  # noqa: F401  # else its library would count as what the load takes
from edgellama.benchmark.engine_stream import fixed_length, running
from edgellama.benchmark.environment import peak_rss_bytes, rss_bytes
from edgellama.benchmark.shares_part import SAMPLINGS
from edgellama.runtime.engine import Engine
from edgellama.runtime.load import load_backend
from edgellama.runtime.manifest import read_manifest
from edgellama.runtime.step import DecodeRow, PrefillChunk, Step
from edgellama.runtime.text import TextCodec

_PROMPT, _OUTPUT = 8, 4  # tokens of a request on every slot
_TIMES = 2  # each of the largest steps: the first may reserve what the second uses


def main(directory: Path, threads: int | None) -> dict[str, int]:
    """Load, answer on every slot, run the largest steps; returns bytes.

    The pool was written whole at the load, and the largest steps read it whole, so no slot need be
    filled by prompts. `imports` is before anything is loaded.
    """
    found = {"imports_rss_bytes": rss_bytes()}
    manifest = read_manifest(directory)
    codec = TextCodec.load(directory)
    backend = load_backend(directory, manifest, threads=threads)
    limits = manifest.profile.limits
    with Engine(backend, codec, limits, manifest) as engine:
        found["loaded_rss_bytes"] = rss_bytes()
        draw = random.Random(0)
        ids = range(manifest.model.vocab_size)
        requests = [
            fixed_length(draw.choices(ids, k=_PROMPT), _OUTPUT, SAMPLINGS["top_p"])
            for _ in range(limits.slots)
        ]
        with running(engine, requests) as streams:
            for stream in streams:
                stream.complete()
        engine.drain()
        for step in largest_steps(manifest.kv.slots, manifest.kv.capacity, limits.prefill_chunk):
            for _ in range(_TIMES):
                backend.run(step)
        found["peak_rss_bytes"] = peak_rss_bytes()
    return found


def largest_steps(slots: int, capacity: int, chunk: int) -> tuple[Step, Step]:
    """Return a step of every slot at its last position, and one in which the last slot reads the
    last `chunk` tokens of a prompt instead; they are of token 0."""
    past = capacity - 1
    rows = tuple(DecodeRow(slot, 0, past) for slot in range(slots))
    decode = Step(rows, None, (past,) * slots)
    tokens = max(1, min(chunk, past))
    end = PrefillChunk(slots - 1, (0,) * tokens, past - tokens, is_last=True)
    lengths = (*((past,) * (slots - 1)), past - tokens)
    return decode, Step(rows[:-1], end, lengths)


if __name__ == "__main__":
    asked = sys.argv[2]
    print(json.dumps(main(Path(sys.argv[1]), None if asked == "-" else int(asked))))
