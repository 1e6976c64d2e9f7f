"""Other programs' use of the machine is seen, and one's own is not taken for theirs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgellama.benchmark.machine_watch import MachineWatch, _read, warnings

needs_proc = pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="only Linux has /proc")
SPIN = "import sys; print(flush=True)\nwhile True: pass"


@needs_proc
def test_own_children_are_not_others() -> None:
    """The work of a child that is alive, and of one that has ended, is the measurement's own."""
    before = _read()
    subprocess.run([sys.executable, "-c", "sum(range(2 * 10**7))"], check=True)
    after_one = _read()
    assert before is not None and after_one is not None
    assert after_one.own - before.own > 0.05, "adding them up takes longer"
    with subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        end = time.monotonic() + 30
        while (now := _read()) is not None and now.own - after_one.own < 0.5:
            assert time.monotonic() < end, "the living child is not counted"
            time.sleep(0.05)
        child.kill()


@needs_proc
def test_a_program_of_others_is_seen(tmp_path: Path) -> None:
    """A process whose parent has gone is no descendant any more."""
    start = (
        "import subprocess, sys; "
        f"p = subprocess.Popen([sys.executable, '-c', {SPIN!r}], stdout=subprocess.PIPE, "
        "stderr=subprocess.DEVNULL); p.stdout.readline(); print(p.pid)"
    )
    made = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=True)
    try:
        watch = MachineWatch()
        time.sleep(0.5)
        facts = watch.facts()
    finally:
        subprocess.run(["kill", "-9", made.stdout.strip()], check=True)
    assert facts["other_share"] > 0.02
    assert {"load_average", "load_average_after", "frequency_mhz", "governor"} <= set(facts)


def test_what_a_reader_is_told() -> None:
    assert warnings(0.05, 0.01) == []
    busy, stolen = warnings(0.25, 0.1)
    assert "other programs took 25%" in busy and "10% of all cores to other machines" in stolen
    assert "does not say" in warnings(None, None)[0]
