"""What a check needs of a machine: functions that say what is lacking."""

from __future__ import annotations

from dataclasses import dataclass

from edgellama.benchmark.check import Earlier
from edgellama.benchmark.gpu_facts import CALIBRATION, COMPILER, KERNELS, Facts
from edgellama.benchmark.outcome import FAILED, PASSED
from edgellama.benchmark.subject import Subject
from edgellama.profiles.kernels import PTX_SINCE

_RTX = "tensorrt-rtx"


def a_gpu(facts: Facts, _subject: Subject | None, _earlier: Earlier) -> str | None:
    """A GPU that CUDA shows."""
    return facts.no_gpu


def the_profiles_gpu(facts: Facts, subject: Subject | None, _earlier: Earlier) -> str | None:
    """A GPU of the compute capability that the profile is for."""
    assert subject is not None
    gpu = subject.profile.device.gpu
    assert gpu is not None, "a profile of TensorRT has a GPU"
    if gpu.compute_capability == facts.compute_capability:
        return None
    return (
        f"the profile is for {gpu.name}, compute capability {gpu.compute_capability}; this GPU is "
        f"{facts.gpu} with {facts.compute_capability}"
    )


def the_library(facts: Facts, subject: Subject | None, _earlier: Earlier) -> str | None:
    """The library that the profile names, in a version that it allows, for this GPU."""
    assert subject is not None
    profile, backend = subject.profile, subject.profile.build.backend
    gpu, knobs = profile.device.gpu, profile.tensorrt
    assert gpu is not None and knobs is not None, "a profile of TensorRT has both"
    if backend == _RTX and not gpu.rtx:
        return f"TensorRT for RTX does not build for {gpu.name} ({gpu.sources['rtx']})"
    if backend in facts.missing:
        return facts.missing[backend]
    found = facts.libraries[backend]
    if backend != _RTX and found not in knobs.range:
        return f"tensorrt.versions is {knobs.versions!r}, and tensorrt {found} is installed"
    return None


def the_compiler(facts: Facts, subject: Subject | None, _earlier: Earlier) -> str | None:
    """The packages that make a bundle; a given one needs none."""
    assert subject is not None
    if subject.bundle is not None:
        return None
    wanted = COMPILER + (CALIBRATION if subject.profile.precision.is_calibrated else ())
    lacking = [name for name in wanted if name not in facts.packages]
    if not lacking:
        return None
    extra = "compile" if set(lacking) - set(CALIBRATION) else "calibrate"
    return (
        f"package {', '.join(lacking)} is not installed, so no bundle can be made here: install "
        f"'edgellama[{extra}]', or give a bundle with --bundle"
    )


def the_kernels(facts: Facts, _subject: Subject | None, _earlier: Earlier) -> str | None:
    """A GPU that the kernels have tiles for, and the packages that run them."""
    assert facts.compute_capability is not None, "after a_gpu"
    if int(facts.compute_capability.replace(".", "")) not in PTX_SINCE:
        return (
            f"the kernels have no tiles for {facts.gpu}, compute capability "
            f"{facts.compute_capability}"
        )
    lacking = [name for name in KERNELS if name not in facts.packages]
    if not lacking:
        return None
    return f"package {', '.join(lacking)} is not installed: install 'edgellama[compile,kernels]'"


@dataclass(frozen=True)
class Passed:
    """The need of an earlier check: of the same subject, or of the whole machine."""

    check: str

    def __call__(self, _facts: Facts, subject: Subject | None, earlier: Earlier) -> str | None:
        keys = [(self.check, "" if subject is None else subject.name), (self.check, "")]
        return _not_passed(earlier, next(key for key in keys if key in earlier))


def a_twin(_facts: Facts, subject: Subject | None, earlier: Earlier) -> str | None:
    """Another engine of the same model to compare with."""
    assert subject is not None
    if subject.twin is None:
        return "there is no engine of another target and the same weights to compare with"
    return _not_passed(earlier, ("build", subject.twin))


def _not_passed(earlier: Earlier, key: tuple[str, str]) -> str | None:
    outcome = earlier[key]
    if outcome.state == PASSED:
        return None
    what = " of ".join(filter(None, key))
    # The cause of a skipped one is told once more, that of a failed one stands above.
    return (
        f"check {what} {'failed' if outcome.state == FAILED else f'was skipped: {outcome.reason}'}"
    )
