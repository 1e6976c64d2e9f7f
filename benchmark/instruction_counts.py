"""Instructions that fixed work takes: a figure that does not drift with the machine.

Counted by callgrind, a tool of valgrind: it runs a process on a processor of its own making, so
that neither other programs nor the frequency change the count.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgellama.benchmark import counted_work as work

# In the order of the work.
PARTS = ("scheduler", "sampler", "detokeniser")
_MARK = "getppid"
# The same memory, the same hashes and one thread in every run.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
_TAIL = 2000


class CountError(RuntimeError):
    """Instructions cannot be counted here."""


def count_instructions(engine: Path) -> dict[str, Any]:
    """Count the work of `counted_work` with the tokenizer of an engine directory; some 10 s.

    Returns the document of kind "counts". Raises CountError where valgrind is missing or fails.
    """
    valgrind = require_valgrind()
    environment = {name: value for name, value in os.environ.items() if name not in _UNSET}
    with TemporaryDirectory() as folder:
        out = Path(folder) / "counts"
        done = subprocess.run(
            [
                valgrind,
                "--tool=callgrind",
                f"--dump-before={_MARK}",
                f"--callgrind-out-file={out}",
                sys.executable,
                *("-m", "edgellama.benchmark.counted_work", str(engine)),
            ],
            env={**environment, **_ENVIRONMENT},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise CountError(f"callgrind ended with {done.returncode}: {done.stderr[-_TAIL:]}")
        # Odd dumps are what came before a part, even ones are the parts.
        counts = {part: _total(Path(f"{out}.{2 * n}")) for n, part in enumerate(PARTS, start=1)}
    return {
        "kind": "counts",
        "instructions": counts,
        "work": {
            "scheduler": f"{work.REQUESTS} requests of {work.PROMPT_TOKENS} + "
            f"{work.OUTPUT_TOKENS} tokens over {work.SLOTS} slots",
            "sampler": f"{work.DRAWS} draws of {work.ROWS} rows of {work.VOCABULARY} logits",
            "detokeniser": f"{work.TEXT_TOKENS} tokens, one at a time",
        },
        "versions": versions(valgrind),
    }


def require_valgrind() -> str:
    """Return the path of valgrind; raises CountError where it is missing."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise CountError(
            "valgrind, which counts instructions, is not installed; install it with the system's "
            "package manager, for example `apt-get install valgrind`"
        )
    return valgrind


def versions(valgrind: str) -> dict[str, str]:
    """Return what a count depends on besides the code."""
    asked = subprocess.run([valgrind, "--version"], capture_output=True, text=True, check=True)
    return {
        "valgrind": asked.stdout.strip(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "tokenizers": version("tokenizers"),
        "machine": platform.machine(),
    }


def _total(path: Path) -> int:
    """Return the instructions of one dump; raises CountError where it has none."""
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("summary:"):
                return int(line.split()[1])
    raise CountError(f"callgrind wrote no count to {path.name}; it did not see {_MARK}")
