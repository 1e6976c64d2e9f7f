"""How checks are run: each in a process of its own, whatever becomes of it."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgellama.benchmark.check import Check, Job
from edgellama.benchmark.gpu_checks import CHECKS, MACHINE
from edgellama.benchmark.gpu_needs import Passed, a_gpu
from edgellama.benchmark.gpu_subjects import Wish, subjects_of
from edgellama.benchmark.run_check import run_check
from edgellama.benchmark.verify_gpu import verify_gpu
from edgellama.cli.__main__ import main

sys.path.insert(0, str(Path(__file__).parent))

from planted_checks import PLANTED, planted, silent


@pytest.fixture(autouse=True)
def _planted_checks_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.mark.parametrize(
    ("name", "state", "reason"),
    [
        ("passes", "passed", ""),
        ("skips", "skipped", "nothing to do"),
        ("fails", "failed", "2 is not 3"),
        ("breaks", "failed", "KeyError: 'a bug'"),
        ("aborts", "failed", "was killed by SIGABRT on the way"),
        ("aborts_at_exit", "failed", "was killed by SIGABRT when it was done, at the end of its"),
        ("leaves", "failed", "ended with exit code 7 and without a result"),
        ("absent", "failed", "AttributeError: module 'planted_checks' has no attribute 'absent'"),
    ],
)
def test_every_end_is_told(tmp_path: Path, name: str, state: str, reason: str) -> None:
    outcome = run_check(planted(name), Job(tmp_path))
    assert outcome.state == state
    assert outcome.reason.startswith(reason) and bool(outcome.reason) == bool(reason)


def test_what_a_failed_check_wrote_is_kept(tmp_path: Path) -> None:
    failed = run_check(planted("fails"), Job(tmp_path))
    assert (failed.figures, failed.log) == ({"two": 2}, "what led to it")
    assert "about to abort" in run_check(planted("aborts"), Job(tmp_path)).log
    assert run_check(planted("breaks"), Job(tmp_path)).log.endswith("KeyError: 'a bug'")
    assert run_check(planted("skips"), Job(tmp_path)).figures == {"found": 1}


def test_a_result_of_an_earlier_run_is_not_taken(tmp_path: Path) -> None:
    check = planted("passes")
    assert run_check(check, Job(tmp_path)).state == "passed"
    assert run_check(replace(check, run="planted_checks:aborts"), Job(tmp_path)).figures == {}


def test_a_check_over_its_limit_is_ended_with_its_children(tmp_path: Path) -> None:
    began = time.monotonic()
    outcome = run_check(planted("hangs", 1), Job(tmp_path))
    assert outcome.reason == "ran over its limit of 1 s and was ended"
    assert time.monotonic() - began < 10
    time.sleep(1.5)  # more than the child had left to sleep
    assert not (tmp_path / "late").exists()


def test_the_others_go_on(tmp_path: Path) -> None:
    names = ("machine", "passes", "aborts", "fails", "skips")
    table = [planted(name) for name in names]
    table += [replace(planted("hangs", 1), name="slow"), replace(planted("passes"), name="last")]
    found = verify_gpu(Wish(), tmp_path, progress=silent, checks=table)
    states = {outcome.check: outcome.state for outcome in found.outcomes}
    assert states == {
        "machine": "passed",
        "passes": "passed",
        "aborts": "failed",
        "fails": "failed",
        "skips": "skipped",
        "slow": "failed",
        "last": "passed",
    }
    assert found.failed and found.counts == {"passed": 3, "failed": 3, "skipped": 1}
    assert found.summary == "On planted: 3 passed, 3 failed, 1 skipped."
    # A check is told the figures of those before it that passed.
    assert found.outcomes[-1].figures["known"] == ["machine", "passes"]


def test_a_limit_of_the_user_replaces_that_of_the_table(tmp_path: Path) -> None:
    table = [planted("machine"), planted("hangs")]
    found = verify_gpu(Wish(), tmp_path, progress=silent, limit=2.5, checks=table)
    assert found.outcomes[1].reason == "ran over its limit of 2.5 s and was ended"


def test_a_machine_that_cannot_be_examined_fails_and_nothing_else_is_tried(tmp_path: Path) -> None:
    first = replace(planted("aborts"), name=MACHINE)
    needy = replace(planted("passes"), needs=(a_gpu,))
    found = verify_gpu(Wish(), tmp_path, progress=silent, checks=[first, needy])
    assert found.failed
    assert found.outcomes[1].reason == ("check machine failed: was killed by SIGABRT on the way")
    assert found.summary == "Nothing was proved on a device: 0 passed, 1 failed, 1 skipped."


def test_checks_per_engine_are_made_for_each_and_need_their_own(tmp_path: Path) -> None:
    table = [
        planted("machine"),
        planted("passes", per_engine=True),
        replace(planted("fails", per_engine=True), name="build"),
        Check("after", "", "planted_checks:passes", (Passed("build"),), 60, per_engine=True),
    ]
    wish = Wish(profiles=("l4-1b",))
    found = verify_gpu(wish, tmp_path, progress=silent, checks=table)
    names = [subject.name for subject in subjects_of(wish, PLANTED)]
    assert len(names) == 2 + 3 + 2  # with TensorRT for RTX there are no plugins
    passing = [o for o in found.outcomes if o.check == "passes"]
    assert [o.subject for o in passing] == [o.figures["subject"] for o in passing] == names
    after = [o for o in found.outcomes if o.check == "after"]
    assert [o.reason for o in after] == [f"check build of {name} failed" for name in names]


def test_a_row_must_name_a_function_and_a_limit() -> None:
    with pytest.raises(ValueError, match="'module:function' is needed"):
        Check("x", "", "module", (), 1)
    with pytest.raises(ValueError, match="seconds is 0; it must be > 0"):
        Check("x", "", "a:b", (), 0)


def test_every_row_of_the_table_can_be_called() -> None:
    from importlib import import_module

    assert CHECKS[0].name == MACHINE and len({check.name for check in CHECKS}) == len(CHECKS)
    for check in CHECKS:
        module, _, function = check.run.partition(":")
        assert callable(getattr(import_module(module), function)), check.run


def test_a_failed_check_is_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = (planted("machine"), planted("fails"))
    monkeypatch.setattr("edgellama.benchmark.gpu_checks.CHECKS", table)
    done = CliRunner().invoke(main, ["verify-gpu", "--out", str(tmp_path / "out")])
    assert done.exit_code == 1, done.output
    assert "failed   fails: 2 is not 3" in done.output
    assert (tmp_path / "out" / "verify-gpu.md").is_file()
