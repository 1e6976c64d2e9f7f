"""A graphics processor as its vendor describes it, `gpus/<name>.toml`, with its sources."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from edgellama.profiles.bounds import ProfileError, require_at_least, require_choice
from edgellama.profiles.versions import VersionRange, parse_range

# Number formats that its matrix units multiply, or, for int4, that a matrix product may unpack.
FORMATS = ("fp16", "bf16", "int8", "int4", "fp8", "fp4")
# The compute capability from which TensorRT has a format, where not every GPU here does (TensorRT
# support matrix, GPU architecture and precision; for int4 that of TensorRT for RTX).
FORMAT_SINCE = {"bf16": 80, "int4": 80, "fp8": 89, "fp4": 100}
PLATFORMS = ("x86_64", "sbsa", "jetpack")


@dataclass(frozen=True)
class Gpu:
    """One processor. `memory_gib` is physical (shared with the CPU where `unified_memory`),
    `bandwidth_gb_s` its memory's peak in 10^9 bytes a second, `multiprocessors` what programs are
    spread over, `tensorrt` the ranges of TensorRT versions that support it on `platform`, `rtx`
    whether TensorRT for RTX can build for it.

    `sources` names for every other field where its value is published.
    """

    name: str
    compute_capability: str
    memory_gib: float
    bandwidth_gb_s: float
    multiprocessors: int
    unified_memory: bool
    platform: str
    formats: tuple[str, ...]
    tensorrt: tuple[str, ...]
    rtx: bool
    sources: Mapping[str, str]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d{1,2}\.\d", self.compute_capability):
            raise ProfileError(
                f"gpu.compute_capability is {self.compute_capability!r}; 'major.minor' is needed"
            )
        for field in ("memory_gib", "bandwidth_gb_s"):
            value = getattr(self, field)
            if not 0 < value < float("inf"):
                raise ProfileError(f"gpu.{field} is {value!r}; it must be > 0 and finite")
        require_at_least("gpu.multiprocessors", self.multiprocessors, 1)
        require_choice("gpu.platform", self.platform, PLATFORMS)
        for name in self.formats:
            require_choice("gpu.formats", name, FORMATS)
            if self.sm < FORMAT_SINCE.get(name, 0):
                raise ProfileError(
                    f"gpu.formats has {name!r} for compute capability {self.compute_capability}; "
                    f"TensorRT has it from {FORMAT_SINCE[name] / 10} on: leave it out"
                )
        if not self.tensorrt:
            raise ProfileError("gpu.tensorrt is empty; name the supported version ranges")
        for text in self.tensorrt:
            parse_range("gpu.tensorrt", text)
        for item in fields(self):
            if item.name != "sources" and not self.sources.get(item.name):
                raise ProfileError(f"gpu.sources has nothing for {item.name}; say where it is from")

    @property
    def sm(self) -> int:
        """The compute capability as one number: 89 for 8.9."""
        return int(self.compute_capability.replace(".", ""))

    @property
    def tensorrt_ranges(self) -> tuple[VersionRange, ...]:
        """The ranges of `tensorrt`, read."""
        return tuple(parse_range("gpu.tensorrt", text) for text in self.tensorrt)
