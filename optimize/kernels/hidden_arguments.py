"""Strip the pointers that Triton appends to the arguments of a kernel from its PTX."""

from __future__ import annotations

import re


def strip_hidden_arguments(ptx: str, count: int) -> str:
    """Return the PTX with the first `count` arguments only.

    Triton (3.4 and later) appends two pointers to scratch memory, which whoever launches a kernel
    of its has to pass; TensorRT passes the arguments of the operator and nothing else. Raises
    ValueError where the body reads one of them, or where there are fewer than `count`.
    """
    found = re.search(r"\.entry\s+(\w+)\s*\(([^)]*)\)", ptx)
    if found is None:
        raise ValueError("the PTX has no .entry")
    arguments = [part.strip() for part in found[2].split(",") if part.strip()]
    if len(arguments) < count:
        raise ValueError(
            f"kernel {found[1]} has {len(arguments)} arguments, its source {count}: one that is "
            "not used was dropped"
        )
    body = ptx[found.end() :]
    for text in arguments[count:]:
        name = text.split()[-1]
        if re.search(rf"\b{re.escape(name)}\b", body):
            raise ValueError(f"kernel {found[1]} reads the hidden argument {name}")
    kept = ",\n".join(f"\t{text}" for text in arguments[:count])
    return f"{ptx[: found.start(2)]}\n{kept}\n{ptx[found.end(2) :]}"


def count_arguments(ptx: str) -> int:
    """Return how many arguments the kernel of a PTX text takes."""
    found = re.search(r"\.entry\s+\w+\s*\(([^)]*)\)", ptx)
    return 0 if found is None else len([part for part in found[1].split(",") if part.strip()])
