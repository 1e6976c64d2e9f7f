"""`bench peers`: the document in its file, the table, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgellama.benchmark import peer_systems
from edgellama.benchmark.peer_folder import PeerFolder
from edgellama.benchmark.peer_systems import PeerSystem
from edgellama.cli.__main__ import main

FAKE = Path(__file__).parents[1] / "benchmark" / "fake_system"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", "peers", *arguments])


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems that only pretend in the place of the real ones."""

    def fake(name: str, how: str) -> PeerSystem:
        settings = {"how": how}
        return PeerSystem(
            name, None, str(FAKE), True, lambda folder, grid: FAKE, "none", lambda grid: settings
        )

    def write(folder: PeerFolder) -> None:
        folder.checkpoint.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"vocab_size": 100})
        (folder.checkpoint / "config.json").write_text(text, encoding="utf-8")

    hows = {"edgellama": "", "other": "", "half": "dies in decode", "broken": "no model"}
    monkeypatch.setattr(PeerFolder, "write_checkpoint", write)
    for name in reversed(list(peer_systems.SYSTEMS)):  # undone in reverse: in their order again
        monkeypatch.delitem(peer_systems.SYSTEMS, name)
    for name, how in hows.items():
        monkeypatch.setitem(peer_systems.SYSTEMS, name, fake(name, how))


@pytest.mark.usefixtures("fakes")
def test_the_document_goes_to_the_file_and_the_table_to_people(tmp_path: Path) -> None:
    file, cache = tmp_path / "peers.json", tmp_path / "cache"
    done = run("--size", "tiny", "--rounds", "1", "--json", str(file), "--cache", str(cache))
    assert done.exit_code == 0, done.output
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    assert document["kind"] == "peers" and document["threads"] == 2
    assert list(tmp_path.iterdir()) == [file, cache] or list(tmp_path.iterdir()) == [cache, file]
    said = "random-tiny, 1 rounds within 35 min"
    for part in ("prefill 32", "decode at 64", "4 requests", "x1.00", said):
        assert part in done.stdout, part
    assert "broken failed: broken ended with code 1 while it loaded" in done.stdout
    assert "decode at 64: half was killed by SIGILL while it ran" in done.stdout


@pytest.mark.usefixtures("fakes")
def test_a_dash_is_standard_output(tmp_path: Path) -> None:
    options = ("--rounds", "1", "--systems", "other,edgellama", "--cache", str(tmp_path))
    done = run("--size", "tiny", *options, "--json=-")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert [entry["system"] for entry in document["systems"]] == ["edgellama", "other"]


def test_what_cannot_be_done_is_said_before_the_work(tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "peers.json"
    done = run("--size", "tiny", "--json", str(file))
    assert done.exit_code == 1
    assert "is no folder to write to" in json.loads(done.stderr)["error"]["message"]
    done = run("--size", "tiny", "--systems", "edgellama,vllm")
    assert done.exit_code == 1 and "'vllm'; it must be one of edgellama, " in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--size"),
        (("--size", "9b"), "tiny"),
        (("--size", "tiny", "--rounds", "0"), "--rounds"),
        (("--size", "tiny", "--json"), "--json"),
    ],
)
def test_wrong_usage_is_2(arguments: tuple[str, ...], said: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2 and said in done.stderr
