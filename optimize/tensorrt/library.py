"""TensorRT's module, and TensorRT for RTX's, as one type: the only import of either here.

One code serves 10.3 to 11.x and RTX 1.7, whose modules are alike; which one is the profile's.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgellama.optimize.error import BuildError
from edgellama.profiles.profile import Profile
from edgellama.profiles.tensorrt import TensorRt
from edgellama.profiles.versions import parse_range

if TYPE_CHECKING:
    import tensorrt as trt
    import tensorrt_rtx as rtx

    Network = trt.INetworkDefinition
    NetworkBuilder = trt.Builder
    Config = trt.IBuilderConfig
    Parser = trt.OnnxParser
    ProgressMonitor = trt.IProgressMonitor
    RtxConfig = rtx.IBuilderConfig
    Severity = trt.ILogger.Severity
    StreamWriter = trt.IStreamWriter
    Log = trt.ILogger

    class Library:
        """The names of the module that the build uses, with their types in TensorRT 11.4."""

        __name__: str
        __version__: str
        Builder = trt.Builder
        BuilderFlag = trt.BuilderFlag
        HardwareCompatibilityLevel = trt.HardwareCompatibilityLevel
        ILogger = trt.ILogger
        IProgressMonitor = trt.IProgressMonitor
        IStreamWriter = trt.IStreamWriter
        LayerInformationFormat = trt.LayerInformationFormat
        MemoryPoolType = trt.MemoryPoolType
        NetworkDefinitionCreationFlag = trt.NetworkDefinitionCreationFlag
        OnnxParser = trt.OnnxParser
        PreviewFeature = trt.PreviewFeature
        ProfilingVerbosity = trt.ProfilingVerbosity
        Runtime = trt.Runtime
        TilingOptimizationLevel = trt.TilingOptimizationLevel

    class RtxLibrary(Library):
        """What TensorRT for RTX has besides, with its types in 1.7."""

        ComputeCapability = rtx.ComputeCapability


RTX = "tensorrt-rtx"
_MODULES = {"tensorrt": "tensorrt", RTX: "tensorrt_rtx"}
# RTX counts its own versions; 1.7 is of TensorRT 11's line, and the first that was tried.
RTX_VERSIONS = parse_range("tensorrt-rtx", ">=1.7,<2")
_INSTALL = {
    "tensorrt": "install 'edgellama[tensorrt]' with --extra-index-url https://pypi.nvidia.com (on "
    "a Jetson: the TensorRT of its JetPack)",
    RTX: "install 'edgellama[tensorrt-rtx]'",
}
_BUNDLE = "or write a bundle with --bundle, and build it on the device with `edgellama finish`"


def knobs_of(profile: Profile) -> TensorRt:
    """Return the table [tensorrt], which a profile of a TensorRT backend has."""
    assert profile.tensorrt is not None, "a profile of another backend"
    return profile.tensorrt


def load_library(profile: Profile) -> Library:
    """Import the library that the profile names, in a version that it allows.

    Raises BuildError with what to install.
    """
    backend = profile.build.backend
    module = _MODULES[backend]
    try:
        library: Any = import_module(module)
    except (ImportError, OSError) as error:  # OSError: the package without its libraries
        raise BuildError(
            f"build.backend is {backend!r}, and module {module} cannot be imported ({error}); "
            f"{_INSTALL[backend]}, {_BUNDLE}"
        ) from error
    version = str(library.__version__)
    wanted = RTX_VERSIONS if backend == RTX else knobs_of(profile).range
    if version not in wanted:
        field = RTX if backend == RTX else "tensorrt.versions"
        raise BuildError(
            f"{field} is {wanted.text!r}, and {backend} {version} is installed; install a version "
            f"within, change the profile, {_BUNDLE}"
        )
    loaded: Library = library
    return loaded
