"""What a profile tells the TensorRT builder; names are those of `tensorrt.IBuilderConfig`."""

from __future__ import annotations

from dataclasses import dataclass

from edgellama.profiles.bounds import ProfileError, require_at_least, require_choice
from edgellama.profiles.versions import VersionRange, parse_range

HARDWARE_COMPATIBILITY = ("none", "ampere_plus", "same_compute_capability")
REFIT = ("none", "refit", "refit_identical", "refit_individual")
TILING = ("none", "fast", "moderate", "full")
VERBOSITY = ("layer_names_only", "none", "detailed")
_GIB = 1024**3


@dataclass(frozen=True)
class TensorRt:
    """The builder's knobs; `versions` are those that the engine may be built with.

    Sizes are in GiB; -1 and 0 keep TensorRT's own choice, as in its API. `workspace_gib` 0 is all
    the device's memory: a cap excludes valid tactics.
    """

    versions: str
    optimization_level: int = 3
    max_num_tactics: int = -1
    avg_timing_iterations: int = 1
    workspace_gib: float = 0.0
    tactic_dram_gib: float = 0.0
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    exclude_lean_runtime: bool = False
    refit: str = "none"
    strip_plan: bool = False
    weight_streaming: bool = False
    weight_streaming_budget_gib: float = 0.0
    tiling: str = "none"
    l2_limit_mib: float = 0.0
    max_aux_streams: int = -1
    sparse_weights: bool = False
    profiling_verbosity: str = "detailed"
    timing_cache: bool = True
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        parse_range("tensorrt.versions", self.versions)
        if not 0 <= self.optimization_level <= 5:
            raise ProfileError(
                f"tensorrt.optimization_level is {self.optimization_level}; it must be in [0, 5]"
            )
        require_at_least("tensorrt.max_num_tactics", self.max_num_tactics, -1)
        require_at_least("tensorrt.avg_timing_iterations", self.avg_timing_iterations, 1)
        require_at_least("tensorrt.max_aux_streams", self.max_aux_streams, -1)
        for field in (
            "workspace_gib",
            "tactic_dram_gib",
            "weight_streaming_budget_gib",
            "l2_limit_mib",
        ):
            require_at_least(f"tensorrt.{field}", getattr(self, field), 0.0)
        tactics = self.tactic_dram_gib * _GIB
        if not tactics.is_integer() or int(tactics) & (int(tactics) - 1):
            raise ProfileError(
                f"tensorrt.tactic_dram_gib is {self.tactic_dram_gib!r}; TensorRT takes a power of "
                "two bytes only: use 1, 2, 4, 8, 16, 32 or 64"
            )
        require_choice(
            "tensorrt.hardware_compatibility", self.hardware_compatibility, HARDWARE_COMPATIBILITY
        )
        require_choice("tensorrt.refit", self.refit, REFIT)
        require_choice("tensorrt.tiling", self.tiling, TILING)
        require_choice("tensorrt.profiling_verbosity", self.profiling_verbosity, VERBOSITY)
        self._require_company()

    def _require_company(self) -> None:
        """Refuse a knob that would be ignored because another one is off."""
        for field, value, needs, met in (
            ("strip_plan", self.strip_plan, "refit other than 'none'", self.refit != "none"),
            (
                "exclude_lean_runtime",
                self.exclude_lean_runtime,
                "version_compatible = true",
                self.version_compatible,
            ),
            (
                "weight_streaming_budget_gib",
                self.weight_streaming_budget_gib,
                "weight_streaming = true",
                self.weight_streaming,
            ),
            ("l2_limit_mib", self.l2_limit_mib, "tiling other than 'none'", self.tiling != "none"),
        ):
            if value and not met:
                raise ProfileError(
                    f"tensorrt.{field} is {value!r}, which has no effect without {needs}; set that "
                    "or leave it out"
                )

    @property
    def range(self) -> VersionRange:
        """`versions`, read."""
        return parse_range("tensorrt.versions", self.versions)
