"""Training gives the same weights every time and never leaves half a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgellama.examples.tiny_llama import tokenizer, train


@pytest.fixture(autouse=True)
def few_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on a small part of the corpus."""
    stages = tuple(replace(stage, count=1000) for stage in train.STAGES)
    monkeypatch.setattr(train, "STAGES", stages)
    monkeypatch.setattr(tokenizer, "DOCUMENTS", 4000)


def run(out: Path) -> dict[str, object]:
    done = CliRunner().invoke(train.main, ["--out", str(out), "--steps", "2", "--json"])
    assert done.exit_code == 0, done.output
    report: dict[str, object] = json.loads(done.stdout)
    return report


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    first, second = run(tmp_path / "first"), run(tmp_path / "second")
    assert first["steps"] == second["steps"] == 2
    files = [tmp_path / name / "model.safetensors" for name in ("first", "second")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "learn", interrupted)
    done = CliRunner().invoke(train.main, ["--out", str(tmp_path / "model"), "--steps", "2"])
    assert done.exit_code != 0
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_replaced_whole(tmp_path: Path) -> None:
    old = tmp_path / "model"
    old.mkdir()
    (old / "config.json").write_text("{}")
    (old / "score.json").write_text("{}")
    run(old)
    assert not (old / "score.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("keep me")
    done = CliRunner().invoke(train.main, ["--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "holds files but no checkpoint" in done.output
    assert (tmp_path / "letter.txt").read_text() == "keep me"


def test_the_steps_are_shared_between_the_stages() -> None:
    assert train.shares(train.STEPS) == [stage.steps for stage in train.STAGES]
    assert sum(train.shares(7)) == 7


def test_the_rate_rises_and_falls() -> None:
    rates = [train.rate(step, 1000, peak=0.003) for step in range(1000)]
    assert max(rates) <= 0.003
    assert rates[0] < rates[train.WARMUP] > rates[500] > rates[-1] > 0
