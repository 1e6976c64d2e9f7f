"""The C library's heap: memory that was freed and is kept."""

from __future__ import annotations

import ctypes
import sys


def return_freed() -> None:
    """Give freed memory back to the system, where the C library can: glibc, and there only.

    onnxruntime packs weights one by one while it loads them; between what stays, the heap keeps
    room as large as half of them, which nothing would use again.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
