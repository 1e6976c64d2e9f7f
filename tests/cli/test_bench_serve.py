"""`bench serve` with a real engine: the document, the text, and Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgellama.benchmark.rate_sweep import knee
from edgellama.benchmark.server_process import serve_command, server_process
from edgellama.cli.__main__ import main

QUICK = ("--seconds", "0.2", "--rates", "0.5,1", "--lengths", "8/8")
BOUNDS = ("--slo-ttft-ms", "10000", "--slo-itl-ms", "1000")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", "serve", *arguments])


@pytest.fixture(scope="module")
def document(engine: str) -> dict[str, Any]:
    """The server is started by the verb itself."""
    done = run("--engine", engine, *QUICK, *BOUNDS, "--bursty", "--json")
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_sweep(document: dict[str, Any]) -> None:
    assert document["kind"] == "serve"
    assert [row["concurrency"] for row in document["closed"]] == [1, 2, 4]
    saturation = document["saturation_requests_per_s"]
    offered = [
        (row["arrivals"], row["burstiness"], row["offered_per_s"]) for row in document["open"]
    ]
    assert offered == [
        ("poisson", 1.0, pytest.approx(0.5 * saturation, abs=1e-3)),
        ("poisson", 1.0, pytest.approx(saturation, abs=1e-3)),
        ("gamma", 0.25, pytest.approx(0.75 * saturation, abs=1e-3)),
    ]
    assert document["overload"]["offered_per_s"] == pytest.approx(2 * saturation, abs=1e-3)
    for row in document["closed"]:
        assert row["completed"] == row["requests"] > 0
        assert row["errors"] == {}
        assert row["goodput_fraction"] == 1.0
    for row in (*document["open"], document["overload"]):
        assert set(row["errors"]) <= {"QUEUE_FULL"}
        assert row["completed"] + sum(row["errors"].values()) == row["requests"]
    assert document["knee"] == knee(document["open"])
    assert document["workload"]["clipped"] == 0


def test_what_the_measuring_costs(document: dict[str, Any]) -> None:
    tax = document["tax"]
    assert tax["in_process"]["ttft_ms"]["n"] == tax["grpc"]["ttft_ms"]["n"] == 10
    assert tax["us_per_token"]["n"] == tax["ttft_ms"]["n"] == 5
    assert tax["echo"]["tokens_per_s"]["median"] > 0
    assert document["driver"]["share_of_smallest"] >= 0
    assert document["interference"] is None, "96 tokens a slot are too few"


def test_another_server_without_bounds_and_engine(engine: str) -> None:
    with server_process(serve_command(Path(engine))) as target:
        done = run("--target", target, *QUICK[:-1], "90/90", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["target"] == target
    assert found["slo"] is None and found["knee"] is None
    assert found["overload"]["goodput_of_knee"] is None
    rows = (*found["closed"], *found["open"])
    assert all(row["goodput_per_s"] is row["goodput_fraction"] is None for row in rows)
    assert found["tax"]["in_process"] is None and found["tax"]["us_per_token"] is None
    assert found["workload"] == {
        "pairs": 1,
        "clipped": 1,
        "capacity": 96,
        "prompt_tokens_mean": 48.0,
        "output_tokens_mean": 48.0,
    }


def test_the_engine_of_another_server_is_refused(engine: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in Path(engine).iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((other / "engine.json").read_text(encoding="utf-8"))
    manifest["fingerprint"] = "0" * 64
    (other / "engine.json").write_text(json.dumps(manifest), encoding="utf-8")
    with server_process(serve_command(Path(engine))) as target:
        done = run("--target", target, "--engine", str(other), *QUICK)
    assert done.exit_code == 1
    assert "the engine in this process is 000000000000" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_text(document: dict[str, Any]) -> None:
    from edgellama.cli.bench_serve_text import serve_text

    text = serve_text(document)
    for part in ("4 at once", "bursts 0.25", "(2x)", "saturation", "knee at", "gRPC costs", "echo"):
        assert part in text
    bare = {**document, "slo": None, "knee": None}
    assert "no SLO was given" in serve_text(bare)
    clipped = {**document, "workload": {**document["workload"], "clipped": 1}}
    assert "1 of 1 pairs were clipped" in serve_text(clipped)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--target"),
        (("--target", "x:1", "--slo-ttft-ms", "5"), "--slo-itl-ms"),
        (("--target", "x:1", *BOUNDS, "--profile", "a100-8b"), "leave one out"),
        (("--target", "x:1", "--rates", "0.5,0"), "above 0"),
        (("--target", "x:1", "--rates", "fast"), "0.5,1"),
    ],
)
def test_wrong_usage_is_2(arguments: tuple[str, ...], said: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2 and said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--lengths", "news"), "shared-prefix"),
        (("--seconds", "0"), "seconds has 0.0"),
        (("--slo-ttft-ms", "0", "--slo-itl-ms", "5"), "slo.ttft_ms"),
        (("--profile", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_measured_is_said_before_a_server_is_asked(
    arguments: tuple[str, ...], said: str
) -> None:
    done = run("--target", "127.0.0.1:1", *arguments)
    assert done.exit_code == 1 and said in done.stderr


# The verb runs in a process of its own, notes its children, and gets a real signal at a stage.
SCRIPT = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
import edgellama.cli.progress as shown

@contextmanager
def interrupting():
    def show(stage, done, total):
        noted = Path(sys.argv[2])
        if stage.startswith(sys.argv[1]) and not noted.exists():  # a second signal does not wait
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
            noted.write_text(children)
            os.kill(os.getpid(), signal.SIGINT)
    yield show

shown.progress = interrupting
from edgellama.cli.__main__ import main
main(sys.argv[3:])
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("stage", ["closed loop of 2", "echo engine"])
def test_ctrl_c_ends_the_server(engine: str, tmp_path: Path, stage: str) -> None:
    noted = tmp_path / "children"
    command = ["bench", "serve", "--engine", engine, *QUICK]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, stage, str(noted), *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    assert done.stderr == "interrupted\n"
    children = noted.read_text(encoding="utf-8").split()
    assert children, "a server was running"
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
