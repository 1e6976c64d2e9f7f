"""Which files an engine directory has, and whether a folder may be replaced by one."""

from __future__ import annotations

from pathlib import Path

from edgellama.export.file_names import BATCH_GRAPH_NAME, DATA_NAME, GRAPH_NAME
from edgellama.export.stage import foreign_name
from edgellama.optimize.error import BuildError
from edgellama.profiles.plan import Plan
from edgellama.runtime.manifest import ENGINE, MANIFEST_NAME, Kind
from edgellama.runtime.text import GENERATION_NAME, TEMPLATE_NAME, TOKENIZER_NAME

PLAN_NAME = "model.plan"
TEXT_FILES = (TOKENIZER_NAME, GENERATION_NAME, TEMPLATE_NAME)
ENGINE_FILES = (
    MANIFEST_NAME,
    GRAPH_NAME,
    DATA_NAME,
    BATCH_GRAPH_NAME,
    f"{BATCH_GRAPH_NAME}.data",
    PLAN_NAME,
    "model.layers.json",
    *TEXT_FILES,
)


def room_for(plan: Plan) -> int:
    """Return the bytes that the files of an engine may take on a disk."""
    return int((plan.weight_bytes + plan.batch_bytes) * 1.1) + (64 << 20)


def require_replaceable(
    out: Path, kind: Kind = ENGINE, written: tuple[str, ...] = ENGINE_FILES
) -> None:
    """Refuse to replace a folder that is not of the kind, or that holds other things too."""
    what = f"{'an' if kind is ENGINE else 'a'} {kind.noun}"
    if out.exists() and not out.is_dir():
        raise BuildError(f"{out} is a file; {what} is a folder: choose another --out")
    name = foreign_name(out, written)
    if name is not None:
        raise BuildError(
            f"{out} exists and is not {what}: it holds {name}, which no build writes and which "
            "would be lost; choose another --out or remove it"
        )
    if out.is_dir() and any(out.iterdir()) and not (out / kind.manifest).is_file():
        raise BuildError(
            f"{out} exists and is not {what} (no {kind.manifest}); choose another --out or "
            "remove it"
        )
