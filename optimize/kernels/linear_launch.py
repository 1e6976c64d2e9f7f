"""Launch the INT4 linear on torch tensors: on a GPU, or in Triton's interpreter on a CPU."""

from __future__ import annotations

import torch

from edgellama.optimize.kernels.int4_linear import int4_linear
from edgellama.optimize.kernels.int4_row import int4_row
from edgellama.optimize.kernels.int4_spec import LinearTile
from edgellama.profiles.kernels import LINEAR_BLOCK


def multiply(
    x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, out: torch.Tensor, tile: LinearTile
) -> None:
    """Write x W^T into `out` T [rows, N]; x T [rows, K], codes int8 [N, K / 2], scales T
    [N, K / 128], all contiguous.

    Raises ValueError for sizes that do not fit together.
    """
    (rows, inputs), outputs = x.shape, codes.shape[0]
    for name, tensor, wanted in (
        ("codes", codes, (outputs, inputs // 2)),
        ("scales", scales, (outputs, inputs // LINEAR_BLOCK)),
        ("out", out, (rows, outputs)),
    ):
        if tuple(tensor.shape) != wanted or inputs % LINEAR_BLOCK:
            raise ValueError(
                f"{name} is {list(tensor.shape)}; x is [{rows}, {inputs}], so it must be "
                f"{list(wanted)}, and the inputs a multiple of {LINEAR_BLOCK}"
            )
    grid = (-(-outputs // tile.block_n), -(-rows // tile.block_m))
    kernel = int4_row if tile.is_row else int4_linear
    kernel[grid](
        x,
        codes,
        scales,
        rows,
        outputs,
        inputs,
        out,
        **tile.constants,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
