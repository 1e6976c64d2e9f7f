"""A profile's knobs on a builder configuration: one table, and none of them is ignored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgellama.optimize.error import BuildError
from edgellama.profiles.tensorrt import TensorRt

if TYPE_CHECKING:
    from edgellama.optimize.tensorrt.library import Config, Library

_GIB, _MIB = 1 << 30, 1 << 20
# What the runtime reads, and what the build reads elsewhere.
NOT_OF_THE_BUILDER = ("versions", "weight_streaming_budget_gib", "cuda_graphs")


@dataclass(frozen=True)
class Knob:
    """One field of the profile's table [tensorrt].

    `is_set` says whether it differs from what TensorRT does by itself; `apply` sets it and returns
    whether the configuration took it. It raises AttributeError where the library has no such knob.
    """

    field: str
    is_set: Callable[[TensorRt], bool]
    apply: Callable[[Library, Config, TensorRt], bool]


def _level(trt: Library, config: Config, knobs: TensorRt) -> bool:
    config.builder_optimization_level = knobs.optimization_level
    return config.builder_optimization_level == knobs.optimization_level


def _tactics(trt: Library, config: Config, knobs: TensorRt) -> bool:
    config.max_num_tactics = knobs.max_num_tactics
    return config.max_num_tactics == knobs.max_num_tactics


def _iterations(trt: Library, config: Config, knobs: TensorRt) -> bool:
    config.avg_timing_iterations = knobs.avg_timing_iterations
    return config.avg_timing_iterations == knobs.avg_timing_iterations


def _workspace(trt: Library, config: Config, knobs: TensorRt) -> bool:
    pool, size = trt.MemoryPoolType.WORKSPACE, int(knobs.workspace_gib * _GIB)
    config.set_memory_pool_limit(pool, size)
    return config.get_memory_pool_limit(pool) == size


def _tactic_dram(trt: Library, config: Config, knobs: TensorRt) -> bool:
    pool, size = trt.MemoryPoolType.TACTIC_DRAM, int(knobs.tactic_dram_gib * _GIB)
    config.set_memory_pool_limit(pool, size)
    return config.get_memory_pool_limit(pool) == size


def _hardware(trt: Library, config: Config, knobs: TensorRt) -> bool:
    levels = trt.HardwareCompatibilityLevel
    if knobs.hardware_compatibility == "ampere_plus":
        level = levels.AMPERE_PLUS
    else:
        level = levels.SAME_COMPUTE_CAPABILITY
    config.hardware_compatibility_level = level
    return config.hardware_compatibility_level == level


def _version_compatible(trt: Library, config: Config, knobs: TensorRt) -> bool:
    config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    return config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE)


def _no_lean_runtime(trt: Library, config: Config, knobs: TensorRt) -> bool:
    config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    return config.get_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)


def _refit(trt: Library, config: Config, knobs: TensorRt) -> bool:
    if knobs.refit == "refit":
        flag = trt.BuilderFlag.REFIT
    elif knobs.refit == "refit_identical":
        flag = trt.BuilderFlag.REFIT_IDENTICAL
    else:
        flag = trt.BuilderFlag.REFIT_INDIVIDUAL
    config.set_flag(flag)
    return config.get_flag(flag)


def _strip(trt: Library, config: Config, knobs: TensorRt) -> bool:
    config.set_flag(trt.BuilderFlag.STRIP_PLAN)
    return config.get_flag(trt.BuilderFlag.STRIP_PLAN)


def _streaming(trt: Library, config: Config, knobs: TensorRt) -> bool:
    config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    return config.get_flag(trt.BuilderFlag.WEIGHT_STREAMING)


def _sparse(trt: Library, config: Config, knobs: TensorRt) -> bool:
    config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    return config.get_flag(trt.BuilderFlag.SPARSE_WEIGHTS)


def _no_timing_cache(trt: Library, config: Config, knobs: TensorRt) -> bool:
    config.set_flag(trt.BuilderFlag.DISABLE_TIMING_CACHE)
    return config.get_flag(trt.BuilderFlag.DISABLE_TIMING_CACHE)


def _tiling(trt: Library, config: Config, knobs: TensorRt) -> bool:
    levels = trt.TilingOptimizationLevel
    named = {"fast": levels.FAST, "moderate": levels.MODERATE, "full": levels.FULL}
    config.tiling_optimization_level = named[knobs.tiling]
    return config.tiling_optimization_level == named[knobs.tiling]


def _l2_limit(trt: Library, config: Config, knobs: TensorRt) -> bool:
    config.l2_limit_for_tiling = int(knobs.l2_limit_mib * _MIB)
    return config.l2_limit_for_tiling == int(knobs.l2_limit_mib * _MIB)


def _streams(trt: Library, config: Config, knobs: TensorRt) -> bool:
    config.max_aux_streams = knobs.max_aux_streams
    return config.max_aux_streams == knobs.max_aux_streams


def _verbosity(trt: Library, config: Config, knobs: TensorRt) -> bool:
    if knobs.profiling_verbosity == "detailed":
        verbosity = trt.ProfilingVerbosity.DETAILED
    elif knobs.profiling_verbosity == "none":
        verbosity = trt.ProfilingVerbosity.NONE
    else:
        verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY
    config.profiling_verbosity = verbosity
    return config.profiling_verbosity == verbosity


# In the order of profiles/tensorrt.py; a flag that needs another one comes after it.
KNOBS = (
    Knob("optimization_level", lambda knobs: knobs.optimization_level != 3, _level),
    Knob("max_num_tactics", lambda knobs: knobs.max_num_tactics != -1, _tactics),
    Knob("avg_timing_iterations", lambda knobs: knobs.avg_timing_iterations != 1, _iterations),
    Knob("workspace_gib", lambda knobs: knobs.workspace_gib > 0, _workspace),
    Knob("tactic_dram_gib", lambda knobs: knobs.tactic_dram_gib > 0, _tactic_dram),
    Knob("hardware_compatibility", lambda knobs: knobs.hardware_compatibility != "none", _hardware),
    Knob("version_compatible", lambda knobs: knobs.version_compatible, _version_compatible),
    Knob("exclude_lean_runtime", lambda knobs: knobs.exclude_lean_runtime, _no_lean_runtime),
    Knob("refit", lambda knobs: knobs.refit != "none", _refit),
    Knob("strip_plan", lambda knobs: knobs.strip_plan, _strip),
    Knob("weight_streaming", lambda knobs: knobs.weight_streaming, _streaming),
    Knob("tiling", lambda knobs: knobs.tiling != "none", _tiling),
    Knob("l2_limit_mib", lambda knobs: knobs.l2_limit_mib > 0, _l2_limit),
    Knob("max_aux_streams", lambda knobs: knobs.max_aux_streams != -1, _streams),
    Knob("sparse_weights", lambda knobs: knobs.sparse_weights, _sparse),
    Knob(
        "profiling_verbosity",
        lambda knobs: knobs.profiling_verbosity != "layer_names_only",
        _verbosity,
    ),
    Knob("timing_cache", lambda knobs: not knobs.timing_cache, _no_timing_cache),
)


def apply_knobs(trt: Library, config: Config, knobs: TensorRt) -> dict[str, object]:
    """Set every knob that differs from TensorRT's own choice; returns their values by field.

    Raises BuildError for one that the library does not have or does not take.
    """
    applied: dict[str, object] = {}
    for knob in KNOBS:
        if not knob.is_set(knobs):
            continue
        value = getattr(knobs, knob.field)
        try:
            taken = knob.apply(trt, config, knobs)
        except AttributeError as error:
            raise BuildError(
                f"tensorrt.{knob.field} is {value!r}, which {trt.__name__} {trt.__version__} does "
                f"not have ({error}); leave it out"
            ) from error
        if not taken:
            raise BuildError(
                f"tensorrt.{knob.field} is {value!r}, which {trt.__name__} {trt.__version__} does "
                "not take; leave it out, or choose another value"
            )
        applied[knob.field] = value
    return applied
