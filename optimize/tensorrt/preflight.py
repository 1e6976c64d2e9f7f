"""Whether this machine can build a profile's engine, asked before any long work."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from edgellama.optimize.error import BuildError
from edgellama.optimize.tensorrt.library import RTX, knobs_of, load_library
from edgellama.profiles.gpu import Gpu
from edgellama.profiles.profile import Profile
from edgellama.runtime.device import DeviceProperties
from edgellama.runtime.manifest import EngineError

if TYPE_CHECKING:
    from edgellama.optimize.tensorrt.library import Library, RtxLibrary

_FIRST_AMPERE = 8  # major compute capability; AMPERE_PLUS takes it and all later ones


def local_gpu() -> DeviceProperties:
    """Ask CUDA for the GPU of this machine; raises BuildError where there is none."""
    try:
        from edgellama.runtime.cuda import Cuda

        return Cuda().properties()
    except ImportError as error:
        raise BuildError(
            f"this machine's GPU cannot be asked for: cuda-python is missing ({error}); install it"
        ) from error
    except (RuntimeError, EngineError) as error:  # RuntimeError: no driver at all
        raise BuildError(f"this machine shows no GPU ({error})") from error


def gpu_of(profile: Profile) -> Gpu:
    """Return the GPU, which a profile of a TensorRT backend has."""
    assert profile.device.gpu is not None, "a profile without a GPU"
    return profile.device.gpu


def require_target(library: Library, gpu: Gpu) -> None:
    """Raise BuildError unless TensorRT for RTX compiles for the GPU."""
    capabilities = cast("RtxLibrary", library).ComputeCapability.__members__
    known = sorted(name for name in capabilities if name.startswith("SM"))
    if f"SM{gpu.sm}" not in known:
        raise BuildError(
            f"device.gpu is {gpu.name} with compute capability {gpu.compute_capability}; "
            f"{RTX} {library.__version__} compiles for {', '.join(known)}: use build.backend "
            "'tensorrt' on the device"
        )


def require_same_gpu(profile: Profile, found: DeviceProperties) -> None:
    """Raise BuildError unless an engine built on the found GPU runs on the profile's.

    TensorRT compiles for the GPU that it builds on.
    """
    gpu, here = gpu_of(profile), found.compute_capability
    if here == gpu.compute_capability:
        return
    level = knobs_of(profile).hardware_compatibility
    majors = [int(text.split(".")[0]) for text in (here, gpu.compute_capability)]
    if level == "ampere_plus" and min(majors) >= _FIRST_AMPERE:
        return
    raise BuildError(
        f"profile {profile.name} is for {gpu.name}, compute capability {gpu.compute_capability}; "
        f"this machine's GPU is {found.name} with {here}, and tensorrt.hardware_compatibility is "
        f"{level!r}: build on the device (--bundle, then `edgellama finish` there), or choose a "
        "profile for this GPU"
    )


def require_backend(profile: Profile) -> DeviceProperties | None:
    """Raise BuildError unless the profile's library is here and can build for its GPU.

    Returns the GPU that TensorRT builds on; None for TensorRT for RTX, which needs none.
    """
    library = load_library(profile)
    if profile.build.backend == RTX:
        require_target(library, gpu_of(profile))
        return None
    try:
        found = local_gpu()
    except BuildError as error:
        raise BuildError(
            f"build.backend is 'tensorrt', which times kernels on the GPU that it builds for: "
            f"{error}; build on the device (--bundle, then `edgellama finish` there)"
        ) from error
    require_same_gpu(profile, found)
    return found
