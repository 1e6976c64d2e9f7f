"""Whether a library and a GPU can run the plan of an engine, and the plan is what it should be."""

from __future__ import annotations

from pathlib import Path

from edgellama.profiles.shapes import optimization_profiles
from edgellama.profiles.versions import parse_version
from edgellama.runtime.contract import check_graph, graph_inputs
from edgellama.runtime.device import DeviceProperties
from edgellama.runtime.manifest import EngineError, Manifest
from edgellama.runtime.tensorrt_engine import TensorRtEngine


def check_version(directory: Path, manifest: Manifest, installed: str) -> None:
    """Raise EngineError unless the installed version may run the plan.

    A plan is for the version that built it. A version-compatible one also runs on later versions,
    never on earlier ones (TensorRT's version compatibility), and only with its lean runtime in it.
    """
    library = manifest.profile.build.backend
    built = manifest.versions.get(library)
    if built is None:
        raise EngineError(
            f"engine {directory}: versions.{library} is missing in engine.json; rebuild the engine"
        )
    if parse_version(installed) == parse_version(built):
        return
    settings = manifest.profile.tensorrt
    assert settings is not None
    what = f"engine {directory} was built with {library} {built}; {installed} is installed"
    if not settings.version_compatible:
        raise EngineError(
            f"{what}; install {built}, or rebuild the engine, with tensorrt.version_compatible = "
            "true if later versions are to run it"
        )
    if parse_version(installed) < parse_version(built):
        raise EngineError(
            f"{what}, which is older; install {built} or later, or rebuild the engine"
        )
    if settings.exclude_lean_runtime:
        raise EngineError(
            f"{what}, and the plan has no lean runtime; install {built}, or rebuild the engine "
            "with tensorrt.exclude_lean_runtime = false"
        )


def check_gpu(directory: Path, manifest: Manifest, found: DeviceProperties) -> None:
    """Raise EngineError unless the plan is for this GPU's compute capability."""
    gpu, settings = manifest.profile.device.gpu, manifest.profile.tensorrt
    assert gpu is not None and settings is not None
    built, here = gpu.compute_capability, found.compute_capability
    if built == here:
        return
    # Any discrete GPU from Ampere on (nvinfer1::HardwareCompatibilityLevel::kAMPERE_PLUS).
    if settings.hardware_compatibility == "ampere_plus" and int(here.split(".")[0]) >= 8:
        return
    raise EngineError(
        f"engine {directory} is for compute capability {built} ({gpu.name}); this GPU is "
        f"{found.name} with {here}; build an engine from a profile for it"
    )


def check_plan(plan: Path, manifest: Manifest, engine: TensorRtEngine) -> None:
    """Raise EngineError unless tensors, optimisation profiles and aliases are the contract's."""
    check_graph(plan, manifest, *engine.tensors())
    _check_profiles(plan, manifest, engine)
    if manifest.profile.build.target == "trt-native":
        _check_aliases(plan, engine)


def _check_profiles(plan: Path, manifest: Manifest, engine: TensorRtEngine) -> None:
    profile, kv = manifest.profile, manifest.kv
    if kv.slots != profile.limits.slots:
        raise EngineError(
            f"{plan}: kv.slots is {kv.slots}, limits.slots {profile.limits.slots}; rebuild the "
            "engine"
        )
    wanted = optimization_profiles(profile.limits, kv.capacity)
    if engine.num_profiles != len(wanted):
        names = ", ".join(each.name for each in wanted)
        raise EngineError(
            f"{plan} has {engine.num_profiles} optimisation profiles; the runtime needs "
            f"{len(wanted)} ({names}); rebuild the engine"
        )
    for index, each in enumerate(wanted):
        for tensor in graph_inputs(profile.build.target, kv):
            low, _, high = each.shapes(tensor.shape)
            least, most = engine.profile_shape(tensor.name, index)
            if not _holds(least, low) or not _holds(high, most):
                raise EngineError(
                    f"{plan}: optimisation profile {each.name} takes {tensor.name} from "
                    f"{list(least)} to {list(most)}; the runtime needs {list(low)} to "
                    f"{list(high)}; rebuild the engine"
                )


def _holds(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    return len(small) == len(large) and all(s <= g for s, g in zip(small, large, strict=True))


def _check_aliases(plan: Path, engine: TensorRtEngine) -> None:
    """Raise EngineError for a cache that the plan would not update in place.

    The plain target has no such layer: there the same address is all there is to it.
    """
    _, outputs = engine.tensors()
    for tensor in outputs:
        wanted = tensor.name.replace("present", "past_key_values", 1)
        found = engine.aliases(tensor.name)
        if tensor.name.startswith("present.") and found not in (None, wanted):
            raise EngineError(
                f"{plan}: output {tensor.name} shares the memory of {found or 'no input'}, not of "
                f"{wanted}; rebuild the engine"
            )
