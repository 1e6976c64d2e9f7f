"""A server in a process of its own: its target, its end, and how a failure reads."""

from __future__ import annotations

import os
import sys

import pytest

from edgellama.benchmark.driver_cost import DriverCostError, measure_driver, smallest_ms
from edgellama.benchmark.precise_loop import run_precisely
from edgellama.benchmark.server_process import (
    ServerProcessError,
    echo_command,
    server_process,
)
from edgellama.grpc_service.client import Client
from edgellama.grpc_service.client_errors import Unavailable


def test_it_serves_and_is_gone_afterwards() -> None:
    command = echo_command(step_ms=1, slots=2, capacity=64)
    with server_process(command) as target, Client(target) as client:
        answer = client.generate((65, 66), max_new_tokens=5, ignore_eos=True)
        assert answer.text == "ABABA" and answer.usage.output_tokens == 5
        assert client.model_info().limits.slots == 2
    with Client(target) as client, pytest.raises(Unavailable):
        client.model_info(timeout=5)


def test_it_is_ended_when_the_measurement_raises() -> None:
    script = "import json, os, time; print(json.dumps({'target': str(os.getpid())}, indent=1),"
    command = (sys.executable, "-c", f"{script} flush=True); time.sleep(600)")
    pids = []
    with pytest.raises(KeyboardInterrupt), server_process(command) as target:
        pids.append(int(target))
        os.kill(pids[0], 0)
        raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_server_that_does_not_start_says_why() -> None:
    command = (sys.executable, "-c", "import sys; sys.exit('no such engine')")
    failure = pytest.raises(ServerProcessError, match=r"exit code 1 .*no such engine")
    with failure, server_process(command):
        pass


def test_the_cost_of_the_driver() -> None:
    rows = [
        {"tpot_ms": {"n": 3, "p50": 4.0}},
        {"tpot_ms": {"n": 3, "p50": 2.0}},
        {"tpot_ms": {"n": 0}},
    ]
    stages: list[str] = []

    async def run() -> tuple[dict[str, object], dict[str, object]]:
        return await measure_driver(
            rows, seconds=0.2, timeout=30.0, report=lambda stage, *_: stages.append(stage)
        )

    echo, driver = run_precisely(run())
    assert echo["step_ms"] == driver["smallest_ms"] == 2.0
    assert set(stages) == {"echo engine", "echo engine, no step time"}
    cost = driver["us_per_token"]
    assert isinstance(cost, dict) and cost["n"] == 5 and cost["median"] >= 0
    assert driver["share_of_smallest"] == pytest.approx(cost["median"] / 2000, abs=1e-4)
    rate, each = echo["tokens_per_s"], echo["us_per_token"]
    assert isinstance(rate, dict) and isinstance(each, dict)
    assert rate["median"] * each["median"] == pytest.approx(1e6, rel=1e-3)


def test_no_time_per_token_is_an_error() -> None:
    with pytest.raises(DriverCostError, match="more tokens"):
        smallest_ms([{"tpot_ms": {"n": 0}}])
