"""Give the builder the project's plugins, where a graph has their operators."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgellama.optimize.error import BuildError
from edgellama.optimize.kernels.plugin import register_plugins
from edgellama.profiles.profile import Profile

if TYPE_CHECKING:
    from edgellama.optimize.tensorrt.library import Config, Library


def add_plugins(library: Library, config: Config, profile: Profile, kernels: Path | None) -> None:
    """Register the plugins with the kernels of a file, and allow them to write their caches.

    Nothing is done for a target without plugins. Raises BuildError for kernels that are missing or
    of another GPU, EngineError for a damaged file.
    """
    if profile.build.target != "trt-plugin":
        assert kernels is None, "kernels for a target that has none"
        return
    assert kernels is not None, "a target with kernels"
    gpu = profile.device.gpu
    assert gpu is not None
    for kernel in register_plugins(library, kernels):
        if kernel.sm != gpu.sm:
            raise BuildError(
                f"{kernels}: {kernel.file} is for compute capability {kernel.sm / 10}, the profile "
                f"for {gpu.compute_capability}; build the bundle again"
            )
    feature = library.PreviewFeature.ALIASED_PLUGIN_IO_10_03
    config.set_preview_feature(feature, True)
    if not config.get_preview_feature(feature):
        raise BuildError(
            f"{library.__name__} {library.__version__} does not let a plugin write its input "
            "(preview feature ALIASED_PLUGIN_IO_10_03); use build.target 'trt-native'"
        )
