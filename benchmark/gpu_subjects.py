"""Which engines are checked: given bundles, profiles of this GPU, and proofs of both targets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgellama.benchmark.gpu_facts import Facts
from edgellama.benchmark.subject import Subject
from edgellama.profiles.kernels import PTX_SINCE, Kernels
from edgellama.profiles.profile import (
    TENSORRT_BACKENDS,
    Accuracy,
    Limits,
    Precision,
    Profile,
    ProfileError,
    load_profile,
    profile_names,
)
from edgellama.profiles.versions import parse_range

TINY = "tiny"
# The tiny model is a proof of what is right; the limits of a large one would only take time.
TINY_LIMITS = Limits(slots=4, capacity=128, prefill_chunk=16, max_queue=8)
PROOF_TARGETS = ("trt-native", "trt-plugin", "trt-plain")
_PLUGIN_VERSIONS = parse_range("target", ">=10.16")


@dataclass(frozen=True)
class Wish:
    """What the user named: profiles, a checkpoint or a size of random weights, and bundles."""

    profiles: tuple[str, ...] = ()
    model: str | None = None
    size: str | None = None
    bundles: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.model is not None and self.size is not None:
            raise ValueError("model and size are both given; give one of the two")


def subjects_of(wish: Wish, facts: Facts) -> list[Subject]:
    """Return the engines in the order of the checks; none where there is no GPU to choose by.

    Given bundles come first, and alone unless a profile is named too. Every other profile is taken
    with both libraries, of which TensorRT for RTX only where it builds for the GPU; the proofs are
    the tiny model in the profiles' own float type.
    """
    found = [_given(folder) for folder in dict.fromkeys(wish.bundles)]
    names = wish.profiles
    if not names and not wish.bundles and facts.compute_capability is not None:
        names = tuple(shipped_for(facts.compute_capability))
    profiles = [load_profile(name) for name in dict.fromkeys(names)]
    for profile in profiles:
        found += [_wished(each, wish) for each in _with_libraries(profile)]
    return [*found, *_proofs(profiles)]


def shipped_for(compute_capability: str) -> list[str]:
    """Return the shipped profiles whose GPU has a compute capability, small models first."""
    profiles = [load_profile(name) for name in profile_names()]
    fitting = [
        profile
        for profile in profiles
        if profile.build.is_tensorrt
        and profile.device.gpu is not None
        and profile.device.gpu.compute_capability == compute_capability
    ]
    return [profile.name for profile in sorted(fitting, key=_billions)]


def _billions(profile: Profile) -> float:
    """Return what the model's name says of its size: an order, nothing else depends on it."""
    sizes = re.findall(r"(\d+(?:\.\d+)?)B\b", profile.model)
    return float(sizes[-1]) if sizes else 0.0


def _given(folder: Path) -> Subject:
    from edgellama.optimize.bundle import BUNDLE
    from edgellama.runtime.manifest import read_manifest

    profile = read_manifest(folder, BUNDLE).profile
    return Subject(f"bundle {folder}", profile, bundle=folder.resolve())


def _with_libraries(profile: Profile) -> Iterable[Profile]:
    if not profile.build.is_tensorrt:
        raise ProfileError(
            f"profile {profile.name} has build.backend {profile.build.backend!r}, which needs no "
            "GPU; name a profile of a trt-* target"
        )
    gpu = profile.device.gpu
    assert gpu is not None, "a profile of TensorRT has a GPU"
    rtx = gpu.rtx and profile.build.target != "trt-plugin"  # it has no plugins of that kind
    backends = [name for name in TENSORRT_BACKENDS if name == "tensorrt" or rtx]
    return [replace(profile, build=replace(profile.build, backend=name)) for name in backends]


def _wished(profile: Profile, wish: Wish) -> Subject:
    """Return the profile with the named model; with the tiny one its limits are reduced."""
    name = f"{profile.name} {profile.build.backend}"
    if wish.size is not None:
        return Subject(f"{name} {wish.size}", profile, size=wish.size)
    if wish.model is None or wish.model == TINY:
        return Subject(name, with_tiny_limits(profile), model=TINY)
    return Subject(name, profile, model=wish.model)


def with_tiny_limits(profile: Profile) -> Profile:
    """Return the profile for the tiny model; what it may lose there says nothing of the profile."""
    limits = replace(TINY_LIMITS, slots=min(TINY_LIMITS.slots, profile.limits.slots))
    return replace(profile, model=TINY, limits=limits, accuracy=Accuracy())


def _has_plugins(profile: Profile) -> bool:
    """Whether the library and the GPU of a profile can have target trt-plugin."""
    gpu, knobs = profile.device.gpu, profile.tensorrt
    assert gpu is not None and knobs is not None, "a profile of TensorRT has both"
    proper = profile.build.backend == "tensorrt" and knobs.range.within(_PLUGIN_VERSIONS)
    return proper and gpu.sm in PTX_SINCE


def _proofs(profiles: Sequence[Profile]) -> list[Subject]:
    """Return the targets of the tiny model in floats, once for each float type and library."""
    found: dict[str, Subject] = {}
    for profile in profiles:
        compute = profile.precision.compute
        for each in _with_libraries(profile):
            gpu = each.device.gpu
            assert gpu is not None, "a profile of TensorRT has a GPU"
            label = f"{compute} {each.build.backend} {gpu.compute_capability}"
            twin = None
            for target in PROOF_TARGETS:
                plugin = target == "trt-plugin"
                if plugin and not _has_plugins(each):
                    continue
                name = f"proof {target} {label}"
                proof = replace(
                    with_tiny_limits(each),
                    build=replace(each.build, target=target),
                    kernels=Kernels("cubin") if plugin else None,
                    precision=Precision(compute, compute, compute, compute=compute),
                )
                found.setdefault(name, Subject(name, proof, model=TINY, twin=twin))
                twin = name
    return list(found.values())
