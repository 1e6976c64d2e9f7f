"""What of the TensorRT builder needs no TensorRT: timing caches, progress, Ctrl-C, messages."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama.optimize.error import BuildError
from edgellama.optimize.tensorrt.interrupt import Interrupt, in_thread
from edgellama.optimize.tensorrt.log import MAX_WARNINGS, Messages
from edgellama.optimize.tensorrt.plan_file import replaced_when_done
from edgellama.optimize.tensorrt.progress import STEPS, Progress
from edgellama.optimize.tensorrt.report import Kept
from edgellama.optimize.tensorrt.timing_cache import (
    TimingCache,
    cache_path,
    read_cache,
    write_cache,
)
from edgellama.profiles.profile import Profile, load_profile
from edgellama.runtime.device import DeviceProperties

L4 = DeviceProperties("NVIDIA L4", "8.9", "13.2")


@dataclass
class CacheBytes:
    """A timing cache that is its bytes."""

    content: bytes

    def serialize(self) -> bytes:
        return self.content


@dataclass
class CacheConfig:
    """A small configuration that takes caches beginning with its version, as TensorRT does."""

    version: str
    held: CacheBytes | None = None
    asked: list[bool] = field(default_factory=list)

    def create_timing_cache(self, content: bytes) -> CacheBytes:
        return CacheBytes(content or self.version.encode())

    def set_timing_cache(self, cache: CacheBytes, ignore_mismatch: bool) -> bool:
        self.asked.append(ignore_mismatch)
        if not cache.content.startswith(self.version.encode()):
            return False
        self.held = cache
        return True

    def get_timing_cache(self) -> CacheBytes | None:
        return self.held


@dataclass(frozen=True)
class VersionOnly:
    """A library of which only the version is asked."""

    __version__: str


def for_build(
    config: CacheConfig, folder: Path, gpu: DeviceProperties | None = L4, **knobs: Any
) -> TimingCache:
    profile: Profile = load_profile("l4-1b")
    assert profile.tensorrt is not None
    profile = dataclasses.replace(profile, tensorrt=dataclasses.replace(profile.tensorrt, **knobs))
    library = cast(Any, VersionOnly(config.version))
    return TimingCache.for_build(library, cast(Any, config), profile, gpu, folder)


def test_a_cache_grows_over_two_builds(tmp_path: Path) -> None:
    first = CacheConfig("11.4.0.106")
    timing = for_build(first, tmp_path)
    assert first.held is not None and first.asked == [False]
    first.held.content += b": times"
    timing.save(cast(Any, first))
    assert timing.sizes == (0, 17)
    second = CacheConfig("11.4.0.106")
    again = for_build(second, tmp_path)
    assert second.held is not None and second.held.content == b"11.4.0.106: times"
    again.save(cast(Any, second))
    assert again.sizes == (17, 17) and again.kept == timing.kept
    (path,) = tmp_path.iterdir()
    assert timing.kept == Kept(file=str(path))
    assert path.name == "tensorrt-11.4.0.106_sm89_driver-13.2_level3.cache"


def test_a_cache_that_is_refused_is_named(tmp_path: Path) -> None:
    path = cache_path(tmp_path, "11.4.0.106", 89, "13.2", 3)
    write_cache(path, b"10.3 was here")
    with pytest.raises(BuildError, match=r"timing cache \S+level3\.cache \(13 bytes\).*remove it"):
        for_build(CacheConfig("11.4.0.106"), tmp_path)
    assert read_cache(path) == b"10.3 was here"


@pytest.mark.parametrize(
    ("gpu", "knobs", "reason"),
    [
        (None, {}, "tensorrt-rtx times kernels where the engine runs"),
        (L4, {"timing_cache": False}, "tensorrt.timing_cache is false"),
        (L4, {"optimization_level": 0}, "tensorrt.optimization_level 0 times nothing"),
    ],
)
def test_why_there_is_no_cache(
    gpu: DeviceProperties | None, knobs: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    config = CacheConfig("11.4.0.106")
    timing = for_build(config, tmp_path, gpu, **knobs)
    timing.save(cast(Any, config))
    assert timing.kept == Kept(reason=reason) and timing.sizes == (0, 0)
    assert config.asked == [] and list(tmp_path.iterdir()) == []


KEYS = st.tuples(
    st.sampled_from(["10.3.0", "10.16.1.11", "11.4.0.106"]),
    st.sampled_from([75, 87, 89, 120]),
    st.sampled_from(["12.6", "13.2", "13.20"]),
    st.integers(0, 5),
)


@given(KEYS, KEYS)
def test_other_keys_are_other_files(one: Any, other: Any) -> None:
    folder = Path("caches")
    assert (cache_path(folder, *one) == cache_path(folder, *other)) == (one == other)
    assert cache_path(folder, *one).parent == folder


def test_a_failed_write_leaves_the_cache_of_before(tmp_path: Path) -> None:
    path = tmp_path / "a.cache"
    write_cache(path, b"before")
    with pytest.raises(TypeError):
        write_cache(path, cast(Any, "a text"))
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


@dataclass(frozen=True)
class Phase:
    """A phase to play: its steps, and the phases within each of them."""

    name: str
    steps: int
    inner: tuple[Phase, ...]

    def play(self, progress: Progress, parent: str | None) -> None:
        progress.start(self.name, parent, self.steps)
        for step in range(self.steps):
            for phase in self.inner:
                phase.play(progress, self.name)
            progress.step(self.name, step)
        progress.finish(self.name)


def phases(depth: int) -> st.SearchStrategy[Phase]:
    """Trees of phases, whose names hold their depth: a phase is never within itself."""
    inner = st.lists(phases(depth - 1), max_size=2).map(tuple) if depth else st.just(())
    return st.builds(Phase, st.sampled_from([f"a{depth}", f"b{depth}"]), st.integers(0, 4), inner)


@given(st.lists(phases(2), min_size=1, max_size=3))
def test_progress_never_runs_backwards(roots: list[Phase]) -> None:
    told: list[tuple[str, int, int]] = []
    progress = Progress(lambda *state: told.append(state), lambda: False)
    for root in roots:
        root.play(progress, None)
    progress.complete()
    done = [state[1] for state in told]
    assert done == sorted(done) and told[-1] == ("done", STEPS, STEPS)
    assert all(0 <= value <= STEPS for value in done)
    assert told[0] == (roots[0].name, 0, STEPS)


def test_progress_counts_a_phase_within_its_parent() -> None:
    told: list[tuple[str, int, int]] = []
    progress = Progress(lambda *state: told.append(state), lambda: False)
    Phase("build", 2, (Phase("clone", 5, ()),)).play(progress, None)
    assert [done for stage, done, _ in told if stage == "clone"][:6] == [0, 100, 200, 300, 400, 500]
    assert ("build", 500, STEPS) in told and told[-1] == ("build", 1000, STEPS)


def test_a_build_stops_when_it_is_asked_to() -> None:
    stopped = threading.Event()
    progress = Progress(lambda *state: None, stopped.is_set)
    progress.start("build", None, 3)
    assert progress.step("build", 0)
    stopped.set()
    assert not progress.step("build", 1)


def test_a_failed_report_stops_the_build_and_is_kept() -> None:
    def fail(stage: str, done: int, steps: int) -> None:
        raise KeyError(stage)

    progress = Progress(fail, lambda: False)
    progress.start("build", None, 3)
    assert not progress.step("build", 0)
    assert isinstance(progress.failure, KeyError)


def test_ctrl_c_is_a_flag_while_a_thread_works() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        assert not interrupt.requested()

        def work() -> bool:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):  # the main thread only waits, and yet handles the signal
                if interrupt.requested():
                    return True
                threading.Event().wait(0.01)
            return False

        assert in_thread(work)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert not interrupt.requested()
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_sets_no_handler() -> None:
    before = signal.getsignal(signal.SIGINT)

    def work() -> bool:
        with Interrupt():
            return signal.getsignal(signal.SIGINT) is before

    assert in_thread(work)


def test_a_plan_is_whole_or_not_there(tmp_path: Path) -> None:
    plan = tmp_path / "model.plan"
    with pytest.raises(OSError, match="no room"), replaced_when_done(plan) as stream:
        stream.write(b"half of it")
        raise OSError("no room")
    assert list(tmp_path.iterdir()) == []
    with replaced_when_done(plan) as stream:
        stream.write(b"all of it")
    assert plan.read_bytes() == b"all of it" and list(tmp_path.iterdir()) == [plan]


def test_messages_are_kept_once_and_explained() -> None:
    messages = Messages()
    for number in range(2 * MAX_WARNINGS):
        messages.warning("the same")
        messages.warning(f"warning {number}")
    assert len(messages.warnings) == MAX_WARNINGS and messages.warnings[0] == "the same"
    assert messages.explain("x cannot build") == "x cannot build: TensorRT logged no error"
    messages.error("the model contains HW-specific datatypes: int4")
    messages.error("something else")
    text = messages.explain("x cannot build")
    assert text.startswith("x cannot build: the model contains HW-specific datatypes: int4; some")
    assert text.endswith("(int4 needs compute capability 8.0, fp8 8.9)")
    messages.clear()
    assert messages.warnings == ()


def test_a_kept_file_has_a_name_or_a_reason() -> None:
    for values in ({}, {"file": "a", "reason": "b"}):
        with pytest.raises(AssertionError):
            Kept(**values)
