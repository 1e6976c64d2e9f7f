"""The generator of random checkpoints writes what transformers can load, or nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgellama.examples import random_llama

ROOT = Path(__file__).resolve().parents[2]


def write(out: Path, *options: str) -> Any:
    return CliRunner().invoke(
        random_llama.main, ["--size", "tiny", "--out", str(out), "--json", *options]
    )


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_transformers_loads_the_checkpoint(tmp_path: Path, shards: int, dtype: str) -> None:
    out = tmp_path / "model"
    done = write(out, "--shards", str(shards), "--dtype", dtype)
    assert done.exit_code == 0, done.output
    assert len(list(out.glob("*.safetensors"))) == shards
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.dtype == getattr(torch, dtype)
    assert model.num_parameters() == json.loads(done.stdout)["parameters"]
    weight = model.model.layers[0].mlp.up_proj.weight.detach().float()
    assert abs(float(weight.std()) - 0.02) < 0.001 and abs(float(weight.mean())) < 0.001
    assert bool((model.model.norm.weight == 1).all())
    assert AutoTokenizer.from_pretrained(out).eos_token == "<|eot_id|>"


def test_pieces_fill_a_large_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_llama, "POOL", 5000)
    monkeypatch.setattr(random_llama, "PIECE", 1000)
    generator = torch.Generator().manual_seed(3)
    pools = random_llama.draw(torch.bfloat16, generator)
    weight = random_llama.Tensor("w", (77, 1001))
    made = list(random_llama.pieces(weight, pools, generator))
    values = torch.cat(made).float()
    assert values.numel() == weight.elements and max(len(piece) for piece in made) == 1000
    assert bool(torch.isfinite(values).all())
    assert abs(float(values.std()) - 0.02) < 0.001 and abs(float(values.mean())) < 0.002
    assert not torch.equal(made[0], made[1])


def test_the_files_are_as_many_as_published() -> None:
    assert {name: size.shards for name, size in random_llama.SIZES.items()} == {
        "tiny": 1,
        "1b": 1,
        "3b": 2,
        "8b": 4,
        "70b": 30,
    }
    parts = random_llama.split(random_llama.tensors(random_llama.SIZES["8b"]), 4)
    sizes = [sum(weight.elements for weight in part) for part in parts]
    assert len(sizes) == 4 and max(sizes) < 1.3 * min(sizes)


def test_it_runs_at_the_repository_root(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.random_llama", "--size", "tiny", "--out"]
    done = subprocess.run([*command, str(tmp_path / "m")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "m" / "config.json").is_file()


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        assert write(tmp_path / name, "--seed", seed).exit_code == 0
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert files[0] == files[1] != files[2]


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("keep me")
    done = write(tmp_path)
    assert done.exit_code == 2
    assert "is not empty" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(random_llama.shutil, "disk_usage", lambda _: usage)
    done = write(tmp_path / "model")
    assert done.exit_code == 1
    assert "1,000 bytes free" in done.output
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(random_llama, "write", interrupted)
    assert write(tmp_path / "model").exit_code != 0
    assert list(tmp_path.iterdir()) == []


def test_more_shards_than_tensors_are_refused(tmp_path: Path) -> None:
    done = write(tmp_path / "model", "--shards", "99")
    assert done.exit_code == 2
    assert "use at most that" in done.output


@pytest.mark.parametrize(
    ("size", "parameters"),
    [("1b", 1_235_814_400), ("3b", 3_212_749_824), ("8b", 8_030_261_248), ("70b", 70_553_706_496)],
)
def test_a_size_has_as_many_parameters_as_the_published_model(size: str, parameters: int) -> None:
    weights = random_llama.tensors(random_llama.SIZES[size])
    assert sum(weight.elements for weight in weights) == parameters
