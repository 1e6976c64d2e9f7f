"""What one compiled attention is for: heads, features and number formats."""

from __future__ import annotations

from dataclasses import dataclass

from edgellama.profiles.kernels import HEAD_SIZES, LARGEST_GROUP

DTYPES = ("fp16", "bf16")
KV_DTYPES = ("fp16", "bf16", "int8", "fp8")


@dataclass(frozen=True)
class AttentionShape:
    """`group` query heads share each of `kv_heads` heads of `head_dim` features.

    `dtype` is the type of queries, new keys, new values and the result; `kv_dtype` that of the
    cache: the same, or int8 or fp8 (E4M3) codes with one step a head and feature.
    """

    kv_heads: int
    group: int
    head_dim: int
    dtype: str
    kv_dtype: str

    def __post_init__(self) -> None:
        if self.kv_heads < 1:
            raise ValueError(f"kv_heads is {self.kv_heads}; it must be >= 1")
        if not 1 <= self.group <= LARGEST_GROUP:
            raise ValueError(f"group is {self.group}; it must be in [1, {LARGEST_GROUP}]")
        if self.head_dim not in HEAD_SIZES:
            raise ValueError(f"head_dim is {self.head_dim}; it must be one of {HEAD_SIZES}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; it must be one of {DTYPES}")
        if self.kv_dtype not in (self.dtype, "int8", "fp8"):
            raise ValueError(
                f"kv_dtype is {self.kv_dtype!r}; it must be {self.dtype!r}, 'int8' or 'fp8'"
            )

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.kv_heads * self.group

    @property
    def padded_group(self) -> int:
        """Lines of a tile that one position takes: the group, up to a power of two."""
        return 1 << (self.group - 1).bit_length()

    @property
    def width(self) -> int:
        """Columns of the packed projection: query heads, then keys, then values."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def scale(self) -> float:
        """What logits are multiplied by."""
        return float(self.head_dim**-0.5)

    @property
    def is_quantized(self) -> bool:
        """Whether the cache holds codes."""
        return self.kv_dtype != self.dtype
