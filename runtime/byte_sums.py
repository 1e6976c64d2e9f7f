"""Whether this processor sums products of bytes without losing any."""

from __future__ import annotations

from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
# Linux's names of the instructions that sum in 32 bits: VNNI, in its forms, and AMX.
_EXACT = {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"}


def sums_saturate(cpu_info: Path = _CPU_INFO) -> bool:
    """Return whether sums of products of unsigned and signed bytes may saturate at 16 bits.

    So they do on x86 without VNNI. Where it cannot be told they may.
    """
    try:
        text = cpu_info.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    for line in text.splitlines():
        name, _, flags = line.partition(":")
        if name.strip() == "flags":
            return not _EXACT & set(flags.split())
    return True
