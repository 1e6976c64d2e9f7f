"""The process of one check: python -m edgellama.benchmark.check_process FUNCTION JOB RESULT.

FUNCTION is "module:function", JOB a file; RESULT is written whole or not at all.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from edgellama.benchmark.check import job_from_dict
from edgellama.benchmark.outcome import FAILED, PASSED, SKIPPED, CheckFailed, CheckSkipped


def run(function: str, job: Path) -> dict[str, Any]:
    """Call the check; returns its state, reason and figures, whatever happened in Python."""
    try:
        module, _, name = function.partition(":")
        call = getattr(import_module(module), name)
        figures = call(job_from_dict(json.loads(job.read_text(encoding="utf-8"))))
        return {"state": PASSED, "reason": "", "figures": figures}
    except CheckSkipped as skipped:
        return {"state": SKIPPED, "reason": _line(skipped), "figures": skipped.figures}
    except CheckFailed as failed:
        return {"state": FAILED, "reason": _line(failed), "figures": failed.figures}
    except Exception as error:  # a bug or a refusal: the report tells it, the log has the place
        traceback.print_exc()
        reason = f"{type(error).__name__}: {_line(error)}"
        return {"state": FAILED, "reason": reason, "figures": {}}


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def main(function: str, job: str, result: str) -> None:
    """Run and write the result."""
    document = json.dumps(run(function, Path(job)))
    partial = Path(f"{result}.partial")
    partial.write_text(document, encoding="utf-8")
    os.replace(partial, result)


if __name__ == "__main__":
    main(*sys.argv[1:])
