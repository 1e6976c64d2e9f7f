"""A target's graph to a TensorRT plan, with `tensorrt` or `tensorrt-rtx`; the device subset.

Which of its parts does what: `optimize/tensorrt/`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from edgellama.optimize.error import BuildError
from edgellama.optimize.tensorrt.inspect_plan import inspect_plan
from edgellama.optimize.tensorrt.interrupt import Interrupt, in_thread
from edgellama.optimize.tensorrt.knobs import apply_knobs
from edgellama.optimize.tensorrt.library import RTX, knobs_of, load_library
from edgellama.optimize.tensorrt.log import logger_of
from edgellama.optimize.tensorrt.parse import count_layers, parse_graph
from edgellama.optimize.tensorrt.plan_file import PlanStream, build_into, replaced_when_done
from edgellama.optimize.tensorrt.plugins import add_plugins
from edgellama.optimize.tensorrt.preflight import gpu_of, require_backend
from edgellama.optimize.tensorrt.progress import Progress, make_monitor
from edgellama.optimize.tensorrt.report import Axes, PlanReport
from edgellama.optimize.tensorrt.timing_cache import TimingCache
from edgellama.profiles.profile import Profile
from edgellama.profiles.shapes import optimization_profiles
from edgellama.runtime.manifest import TensorInfo

if TYPE_CHECKING:
    from edgellama.optimize.tensorrt.library import (
        Config,
        Library,
        Network,
        NetworkBuilder,
        RtxConfig,
        RtxLibrary,
    )


def build_plan(
    graph: Path,
    plan: Path,
    profile: Profile,
    inputs: Sequence[TensorInfo],
    *,
    kernels: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    cache: Path | None = None,
) -> PlanReport:
    """Build the plan of a graph; `inputs` are the target's, with their symbolic axes.

    `kernels` is the file of the kernels that a graph of target trt-plugin calls.
    `progress` is told (stage, steps done, of how many), from another thread. `cache` is the folder
    of timing caches, None the user's. Raises BuildError, and KeyboardInterrupt after Ctrl-C; either
    leaves no plan behind. TensorRT's own code may end the process where it finds no way on.
    """
    gpu = require_backend(profile)
    library = load_library(profile)
    log, messages = logger_of(library)
    messages.clear()
    builder = library.Builder(log)
    began = time.perf_counter()
    config = builder.create_builder_config()
    add_plugins(library, config, profile, kernels)  # the parser looks operators up there
    # The parser holds what the network refers to.
    network, parser = parse_graph(library, builder, graph, inputs)
    parsed = time.perf_counter()
    knobs = apply_knobs(library, config, knobs_of(profile))
    if profile.build.backend == RTX:
        _aim(library, config, gpu_of(profile).sm)
    profiles = _add_profiles(builder, config, profile, inputs)
    timing = TimingCache.for_build(library, config, profile, gpu, cache)
    layers = count_layers(network)
    _build(library, builder, network, config, plan, progress)
    timing.save(config)
    built = time.perf_counter()
    del parser, network, config, builder  # gigabytes, which the inspector may need
    return PlanReport(
        backend=profile.build.backend,
        version=library.__version__,
        compute_capability=gpu.compute_capability if gpu else gpu_of(profile).compute_capability,
        driver=gpu.driver if gpu else None,
        seconds={"parse": round(parsed - began, 3), "build": round(built - parsed, 3)},
        plan_bytes=plan.stat().st_size,
        layers=layers,
        optimization_profiles=profiles,
        knobs=knobs,
        timing_cache=timing.kept,
        timing_cache_bytes=timing.sizes,
        warnings=messages.warnings,
        inspector=inspect_plan(library, plan, profile),
    )


def _aim(library: Library, config: Config, sm: int) -> None:
    """Compile for the profile's GPU, which TensorRT for RTX does without one."""
    rtx, target = cast("RtxLibrary", library), cast("RtxConfig", config)
    target.num_compute_capabilities = 1
    capability = rtx.ComputeCapability.__members__[f"SM{sm}"]
    if not target.set_compute_capability(capability, 0):
        raise BuildError(f"{RTX} {library.__version__} refuses to compile for SM{sm}")


def _add_profiles(
    builder: NetworkBuilder, config: Config, profile: Profile, inputs: Sequence[TensorInfo]
) -> dict[str, Axes]:
    """Add every optimisation profile in the runtime's order; returns their axes."""
    added: dict[str, Axes] = {}
    for index, each in enumerate(optimization_profiles(profile.limits, _capacity(inputs))):
        shapes = {tensor.name: each.shapes(tensor.shape) for tensor in inputs}
        described = builder.create_optimization_profile()
        for name, (low, best, high) in shapes.items():
            described.set_shape(name, low, best, high)
        if config.add_optimization_profile(described) != index:
            raise BuildError(
                f"TensorRT refuses optimisation profile {each.name} with the shapes {shapes}; "
                "check the table [limits]"
            )
        added[each.name] = {name: (r.min, r.opt, r.max) for name, r in each.axes.items()}
    return added


def _capacity(inputs: Sequence[TensorInfo]) -> int:
    """Return how many positions the caches have, `[batch, kv_heads, capacity, head_dim]`."""
    (capacity,) = {each.shape[2] for each in inputs if each.name.startswith("past_key_values.")}
    assert isinstance(capacity, int)
    return capacity


def _build(
    library: Library,
    builder: NetworkBuilder,
    network: Network,
    config: Config,
    plan: Path,
    report: Callable[[str, int, int], None] | None,
) -> None:
    """Run the builder in a thread, with progress and Ctrl-C; raises what stopped it."""
    _, messages = logger_of(library)
    with replaced_when_done(plan) as stream:
        written = PlanStream(stream)
        with Interrupt() as interrupt:
            progress = Progress(report or _unheard, interrupt.requested)
            monitor = make_monitor(library, progress)
            config.progress_monitor = monitor
            try:
                done = in_thread(lambda: build_into(library, builder, network, config, written))
            finally:
                config.progress_monitor = None  # it must not outlive the monitor
        failure = written.failure or progress.failure
        if failure is not None:
            raise failure
        if interrupt.requested():
            raise KeyboardInterrupt
        if not done or stream.tell() == 0:
            what = f"{library.__name__} {library.__version__} cannot build the plan"
            raise BuildError(messages.explain(what))
        progress.complete()


def _unheard(stage: str, done: int, steps: int) -> None:
    """Nobody wants to know."""
