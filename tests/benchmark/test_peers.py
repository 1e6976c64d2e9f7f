"""The whole comparison with systems that only pretend, and once with two real ones."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from edgellama.benchmark.peer import Peer, Seconds
from edgellama.benchmark.peer_environment import Packages, PeerError
from edgellama.benchmark.peer_folder import PeerFolder
from edgellama.benchmark.peer_systems import SYSTEMS, PeerSystem
from edgellama.benchmark.peer_work import GRIDS, PeerCell, PeerGrid
from edgellama.benchmark.peers import measure_peers, measure_systems
from edgellama.benchmark.report.peers_part import PeersPart
from edgellama.benchmark.report.record import read_record

FAKE = Path(__file__).parent / "fake_system"
CELLS = 7 - 2  # of the tiny grid: two prompts, a context, two numbers of requests
SECONDS = Seconds(load=30, warm_up=30, cell=0.5)


def silent(_stage: str, _done: int, _total: int) -> None:
    """Show nothing."""


def fake(name: str, how: str = "") -> PeerSystem:
    return PeerSystem(
        name,
        None,
        str(FAKE),
        True,
        lambda folder, grid: folder.checkpoint,
        "none",
        lambda grid: {"how": how},
    )


@pytest.fixture
def folder(tmp_path: Path) -> PeerFolder:
    found = PeerFolder("tiny", tmp_path, silent)
    found.checkpoint.mkdir(parents=True)
    text = json.dumps({"vocab_size": 100})
    (found.checkpoint / "config.json").write_text(text, encoding="utf-8")
    return found


def measure(folder: PeerFolder, *systems: PeerSystem, rounds: int = 2) -> dict[str, Any]:
    found = measure_systems(systems, folder, rounds, 5, 1, SECONDS)
    read_record(PeersPart, json.loads(json.dumps(found)), "peers")
    return found


def rows_of(found: dict[str, Any], system: str) -> list[dict[str, Any]]:
    return [row for row in found["rows"] if row["system"] == system]


def test_each_system_runs_each_cell_in_each_round(folder: PeerFolder) -> None:
    found = measure(folder, fake("edgellama"), fake("other"))
    assert (found["kind"], found["size"], found["rounds"]) == ("peers", "tiny", 2)
    assert found["model"] == {"name": "random-tiny", "seed": 2026}
    assert [entry["version"] for entry in found["systems"]] == ["7", "7"]
    assert found["systems"][0]["settings"] == {"weights": "none", "how": "", "threads": 1}
    assert found["environment"]["warnings"] is not None
    assert len(found["rows"]) == 2 * CELLS
    for row in rows_of(found, "edgellama"):
        assert row["value"]["n"] == 2 and "ratio_to_ours" not in row
    for row in rows_of(found, "other"):
        assert row["ratio_to_ours"]["n"] == 2 and row["ratio_to_ours"]["median"] == 1
    prefill = rows_of(found, "other")[0]
    assert prefill["value"]["median"] == pytest.approx(32 / 0.001)
    assert str(folder.cache) not in json.dumps(found)


def test_what_there_is_no_time_for_is_not_repeated(
    folder: PeerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgellama.benchmark.peers.affordable", lambda *_: set())
    found = measure(folder, fake("edgellama"), fake("other"), rounds=3)
    assert found["rounds"] == 3 and len(found["rows"]) == 2 * CELLS
    assert {row["value"]["n"] for row in found["rows"]} == {1}
    assert {row["ratio_to_ours"]["n"] for row in rows_of(found, "other")} == {1}


def test_a_slow_system_costs_its_own_share_of_the_time(
    folder: PeerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[tuple[str, int]] = []

    def took(cell: PeerCell, peer: Peer) -> float:
        peer.run(cell)
        order.append((peer.system.name, cell.tokens))
        return {"edgellama": 0.0, "other": 1e6}[peer.system.name]

    monkeypatch.setattr("edgellama.benchmark.peers._seconds", took)
    systems = fake("edgellama"), fake("other")
    end = time.monotonic() + 1e5
    found = measure_systems(systems, folder, 3, 5, 1, SECONDS, end=end)
    ours, (theirs,) = ([n for name, n in order if name == s.name] for s in systems)
    assert ours == sorted(ours) and len(ours) == CELLS and theirs == ours[0]
    assert all(row["value"]["n"] == 3 for row in rows_of(found, "edgellama"))
    rows = rows_of(found, "other")
    left_out = [row["error"] for row in rows if "error" in row]
    said = "other had no time left: smaller work took 1000000 s"
    assert left_out == [said] * (CELLS - 1)
    (measured,) = (row for row in rows if "value" in row)
    assert measured["value"]["n"] == measured["ratio_to_ours"]["n"] == 1


def test_a_ratio_is_of_the_rounds_that_both_have(
    folder: PeerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only(seconds: dict[Any, float], repeats: int, left: float) -> set[Any]:
        assert len(seconds) == 2 * CELLS and repeats == 2 and min(seconds.values()) >= 0
        return {pair for pair in seconds if pair[1].system.name == "other"}

    monkeypatch.setattr("edgellama.benchmark.peers.affordable", only)
    found = measure(folder, fake("edgellama"), fake("other"), rounds=3)
    for row in rows_of(found, "other"):
        assert row["value"]["n"] == 3 and row["ratio_to_ours"]["n"] == 1
    assert {row["value"]["n"] for row in rows_of(found, "edgellama")} == {1}


def test_without_ours_there_is_no_ratio(folder: PeerFolder) -> None:
    found = measure(folder, fake("other"), rounds=1)
    assert all("value" in row and "ratio_to_ours" not in row for row in found["rows"])


def test_what_cannot_be_loaded_is_no_row(folder: PeerFolder) -> None:
    found = measure(folder, fake("edgellama"), fake("broken", "no model"), rounds=1)
    assert "there is no model" in found["systems"][1]["error"]
    assert found["systems"][1]["version"] is None
    assert {row["system"] for row in found["rows"]} == {"edgellama"}


def test_nothing_can_be_loaded(folder: PeerFolder) -> None:
    found = measure(folder, fake("broken", "no model"))
    assert found["rows"] == [] and found["systems"][0]["error"]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("dies in decode", "killed by SIGILL"),
        ("hangs in decode", "took over 0.5 s"),
        ("forgets one", "gave 15 tokens where 16 were asked for"),
    ],
)
def test_a_cell_that_fails_is_an_error_and_the_others_are_measured(
    folder: PeerFolder, how: str, said: str
) -> None:
    found = measure(folder, fake("edgellama"), fake("other", how))
    for row in rows_of(found, "other"):
        if row["work"] == "decode":
            assert said in row["error"] and "value" not in row
        else:
            assert row["value"]["n"] == 2 and row["ratio_to_ours"]["n"] == 2
    assert all("value" in row for row in rows_of(found, "edgellama"))
    assert found["systems"][1]["error"] is None


def test_a_cell_that_ours_failed_has_no_ratio(folder: PeerFolder) -> None:
    found = measure(folder, fake("edgellama", "forgets one"), fake("other"))
    for row in rows_of(found, "other"):
        assert ("ratio_to_ours" in row) == (row["work"] != "decode") and "value" in row


def test_an_environment_that_cannot_be_made_is_an_error(
    folder: PeerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(packages: Packages | None, cache: Path, report: Any) -> str:
        raise PeerError("install nothing ended with 1: no such package")

    monkeypatch.setattr("edgellama.benchmark.peer.peer_python", fail)
    found = measure(folder, fake("other"))
    assert "no such package" in found["systems"][0]["error"]


def test_an_interrupted_conversion_leaves_nothing(
    folder: PeerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(what: str, command: list[str], variables: Any) -> None:
        (Path(command[-1]) / "half").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("edgellama.benchmark.peer_folder.peer_python", lambda *_: "python")
    monkeypatch.setattr("edgellama.benchmark.peer_folder.run_quoted", interrupt)
    before = sorted(folder.path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        folder.convert("model", Packages("none", ()), lambda out: ["{python}", str(out)])
    assert sorted(folder.path.iterdir()) == before


def test_a_model_is_converted_once(folder: PeerFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def note(what: str, command: list[str], variables: Any) -> None:
        calls.append(command)

    monkeypatch.setattr("edgellama.benchmark.peer_folder.peer_python", lambda *_: "python")
    monkeypatch.setattr("edgellama.benchmark.peer_folder.run_quoted", note)
    for option in ("a", "a", "b"):
        made = folder.convert("m", Packages("none", ()), lambda out, o=option: ["{python}", o])
        assert made == folder.path / "m"
    assert calls == [["python", "a"], ["python", "b"]]


def test_every_system_has_a_worker_and_settings() -> None:
    for name, system in SYSTEMS.items():
        assert system.name == name and system.file.is_file()
        for grid in GRIDS.values():
            assert json.dumps(system.settings(grid))
            assert isinstance(grid, PeerGrid)


@pytest.mark.slow
def test_our_engine_beside_transformers(tmp_path: Path) -> None:
    found = measure_peers(
        "tiny",
        tmp_path,
        rounds=1,
        seed=0,
        threads=2,
        minutes=60,
        systems=("edgellama", "transformers-eager"),
        progress=silent,
    )
    assert [entry["error"] for entry in found["systems"]] == [None, None]
    assert len(found["rows"]) == 2 * CELLS
    assert not [row for row in found["rows"] if "error" in row]
    again: list[str] = []
    PeerFolder("tiny", tmp_path, lambda stage, *_: again.append(stage)).write_checkpoint()
    assert again == [], "the checkpoint was there"
