"""The table [kernels] of a profile: how the project's own GPU kernels are compiled and used."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgellama.profiles.bounds import ProfileError, require_choice

CODES = ("cubin", "ptx")
# Compute capabilities that the kernels are compiled for, and the first version of PTX that can say
# them all: the one that knows the GPU (PTX ISA, release notes), or for 8.0 and 8.6 the hints of the
# INT4 linear's loads, and for 8.9 conversions of E4M3. 7.5 compiles, but without its matrix units.
PTX_SINCE = {
    80: (7, 4),
    86: (7, 4),
    87: (7, 4),
    89: (8, 1),
    90: (8, 0),
    100: (8, 6),
    110: (9, 0),
    120: (8, 7),
    121: (8, 8),
}
HEAD_SIZES = (16, 32, 64, 128)
LARGEST_GROUP = 8  # query heads that share a key head
FP8_SINCE = 89
LINEAR_BLOCK = 128  # inputs that share a scale in the INT4 linear
# Programs a multiprocessor that a launch of the attention should have: one to run, one to wait.
PROGRAMS_EACH = 2


@dataclass(frozen=True)
class Kernels:
    """`code` is what TensorRT is given: machine code, or PTX that the device's driver translates.

    `ptx_version` is the newest that the driver must read, for example "8.4"; a cubin needs none.
    `int4_linear` says whether INT4 linears run on the project's kernel instead of TensorRT's.
    """

    code: str
    ptx_version: str | None = None
    int4_linear: bool = False

    def __post_init__(self) -> None:
        require_choice("kernels.code", self.code, CODES)
        if (self.code == "ptx") != (self.ptx_version is not None):
            state = "missing" if self.ptx_version is None else "given"
            raise ProfileError(
                f"kernels.ptx_version is {state}, kernels.code is {self.code!r}; PTX needs the "
                "version that the device's driver reads, a cubin has none"
            )
        if self.ptx_version is not None and not re.fullmatch(r"\d{1,2}\.\d", self.ptx_version):
            raise ProfileError(
                f"kernels.ptx_version is {self.ptx_version!r}; 'major.minor' is needed"
            )

    @property
    def ptx(self) -> tuple[int, int] | None:
        """The PTX version as numbers."""
        if self.ptx_version is None:
            return None
        major, minor = self.ptx_version.split(".")
        return int(major), int(minor)
