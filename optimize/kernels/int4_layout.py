"""How the INT4 linear has its weights: bytes of two codes, in groups of 128 inputs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgellama.profiles.kernels import LINEAR_BLOCK

_HALF = LINEAR_BLOCK // 2
_ZERO = 8  # what is added to a code, so that a nibble has no sign


def pack_codes(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Pack codes int8 [N, K] in [-8, 7] to int8 [N, K / 2]; K is a multiple of 128.

    Byte j of a group has the group's input j in the low nibble and input 64 + j in the high one: a
    load gives two runs of neighbouring inputs, and none has to be moved.
    """
    outputs, inputs = codes.shape
    if inputs % LINEAR_BLOCK:
        raise ValueError(f"a linear has {inputs} inputs; {LINEAR_BLOCK} must divide them")
    nibbles = (codes.astype(np.int16) + _ZERO).astype(np.uint8)
    halves = nibbles.reshape(outputs, inputs // LINEAR_BLOCK, 2, _HALF)
    packed = halves[:, :, 0] | (halves[:, :, 1] << 4)
    return np.ascontiguousarray(packed.reshape(outputs, inputs // 2)).view(np.int8)


def unpack_codes(packed: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Return the codes int8 [N, K] of packed bytes int8 [N, K / 2]."""
    outputs, half = packed.shape
    groups = packed.view(np.uint8).reshape(outputs, half // _HALF, _HALF)
    nibbles = np.stack([groups & 0xF, groups >> 4], 2).reshape(outputs, 2 * half)
    return (nibbles.astype(np.int16) - _ZERO).astype(np.int8)
