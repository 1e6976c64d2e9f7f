"""Launch the attention on torch tensors: on a GPU, or in Triton's interpreter on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgellama.optimize.kernels.append_cache import append_cache
from edgellama.optimize.kernels.attention_shape import AttentionShape
from edgellama.optimize.kernels.combine_pieces import combine_pieces
from edgellama.optimize.kernels.fused_gqa import fused_gqa
from edgellama.optimize.kernels.fused_gqa_pieces import fused_gqa_pieces
from edgellama.optimize.kernels.kernel_spec import (
    COMBINE_WARPS,
    attention_constants,
    combine_constants,
)
from edgellama.optimize.kernels.pieces import count_tiles
from edgellama.optimize.kernels.tile import Tile

DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.int8,
    "fp8": torch.float8_e4m3fn,
}
_APPEND_WARPS = 4


@dataclass(frozen=True)
class Inputs:
    """What the attention takes; shapes and types are those of `FusedGQA` (docs/plugin.md)."""

    qkv: torch.Tensor
    past_key: torch.Tensor
    past_value: torch.Tensor
    rows: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    key_scale: torch.Tensor
    value_scale: torch.Tensor

    @property
    def capacity(self) -> int:
        """Tokens that a slot holds."""
        return int(self.past_key.shape[2])

    def check(self, shape: AttentionShape) -> None:
        """Raise ValueError that names the first tensor that does not fit.

        It reads the rows, and so waits for a GPU: once before a benchmark, not in it.
        """
        heads, size = shape.kv_heads, shape.head_dim
        cache = (None, heads, self.capacity, size)
        table = (None, size // 2)
        steps = (heads, size)
        own, kept, wide = DTYPES[shape.dtype], DTYPES[shape.kv_dtype], torch.float32
        for name, wanted, dtype in (
            ("qkv", (None, shape.width), own),
            ("past_key", cache, kept),
            ("past_value", cache, kept),
            ("rows", (None, 4), torch.int32),
            ("cos", table, wide),
            ("sin", table, wide),
            ("key_scale", steps, wide),
            ("value_scale", steps, wide),
        ):
            tensor: torch.Tensor = getattr(self, name)
            _check_tensor(name, tensor, wanted, dtype, self.qkv.device)
        self._check_rows()

    def _check_rows(self) -> None:
        slots = int(self.past_key.shape[0])
        tokens, positions = int(self.qkv.shape[0]), int(self.cos.shape[0])
        seen: set[int] = set()
        for index, (slot, first, count, past) in enumerate(self.rows.tolist()):
            if not 0 <= slot < slots or slot in seen:
                raise ValueError(
                    f"rows[{index}] names slot {slot}; there are {slots}, each for one row at most"
                )
            seen.add(slot)
            if count < 0 or first < 0 or first + count > tokens:
                raise ValueError(f"rows[{index}] has {count} tokens from {first}; qkv has {tokens}")
            if past < 0 or past + count > min(self.capacity, positions):
                raise ValueError(
                    f"rows[{index}] adds {count} tokens to {past}; a slot holds {self.capacity}, "
                    f"the tables have {positions} positions"
                )


def _check_tensor(
    name: str,
    tensor: torch.Tensor,
    wanted: tuple[int | None, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    sizes = tuple(tensor.shape)
    fits = len(sizes) == len(wanted) and all(
        size in (given, None) for given, size in zip(sizes, wanted, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{name} is {list(sizes)}; it must be {['?' if s is None else s for s in wanted]}"
        )
    if tensor.dtype != dtype:
        raise ValueError(f"{name} is {tensor.dtype}; it must be {dtype}")
    if tensor.device != device or not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous and on {device}, where qkv is")


@dataclass(frozen=True)
class Pieces:
    """Where the pieces of pasts are kept: partial float32 [pieces, tokens, heads, head_dim] and
    logs float32 [pieces, tokens, heads]."""

    partial: torch.Tensor
    logs: torch.Tensor

    @classmethod
    def empty(cls, count: int, tokens: int, shape: AttentionShape, device: torch.device) -> Pieces:
        """Return room for `count` pieces."""
        logs = torch.empty(count, tokens, shape.heads, device=device)
        partial = torch.empty(*logs.shape, shape.head_dim, device=device)
        return cls(partial, logs)


def attend(
    shape: AttentionShape,
    inputs: Inputs,
    out: torch.Tensor,
    *,
    longest: int,
    tile: Tile,
    pieces: Pieces | None = None,
    append: bool = True,
) -> None:
    """Write the attention into `out` T [tokens, heads x head_dim], and the caches in place.

    `longest` is the largest number of tokens of a row. Pasts are cut where `pieces` has room for
    them. Without `append` a launch before writes the caches, and new keys are read there: for long
    chunks, which would rotate each key once for every tile behind it. Nothing is checked here, see
    `Inputs.check`.
    """
    rows = int(inputs.rows.shape[0])
    tokens, heads = int(inputs.qkv.shape[0]), shape.kv_heads
    constants = attention_constants(shape, tile, append=append)
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    if not append:
        blocks = -(-longest // tile.new_n)
        append_cache[blocks, heads, rows](
            inputs.qkv,
            inputs.rows,
            inputs.cos,
            inputs.sin,
            inputs.key_scale,
            inputs.value_scale,
            inputs.capacity,
            inputs.past_key,
            inputs.past_value,
            KV_HEADS=heads,
            GROUP=shape.group,
            D=shape.head_dim,
            BLOCK_N=tile.new_n,
            num_warps=_APPEND_WARPS,
        )
    given = (
        inputs.qkv,
        inputs.past_key,
        inputs.past_value,
        inputs.rows,
        inputs.cos,
        inputs.sin,
        inputs.key_scale,
        inputs.value_scale,
        inputs.capacity,
    )
    caches = (inputs.past_key, inputs.past_value)
    tiles = count_tiles(longest, shape.padded_group, tile.block_m)
    if pieces is None:
        fused_gqa[tiles, heads, rows](*given, out, *caches, **constants, **options)
        return
    count = int(pieces.logs.shape[0])
    fused_gqa_pieces[tiles, heads * count, rows](
        *given, tokens, pieces.partial, pieces.logs, *caches, **constants, **options
    )
    lines = tokens * shape.heads
    combine_pieces[(lines,)](
        pieces.partial,
        pieces.logs,
        lines,
        count,
        out,
        **combine_constants(shape),
        num_warps=COMBINE_WARPS,
    )
