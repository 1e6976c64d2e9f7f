"""`profiles` and `plan` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgellama.cli.__main__ import main
from edgellama.cli.override import Override
from edgellama.profiles.profile import ProfileError, load_profile, profile_names

CONFIG = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """A folder with a config.json only: a plan needs no weights."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return str(tmp_path)


def test_list_has_every_profile() -> None:
    done = CliRunner().invoke(main, ["profiles", "list", "--json"])
    assert [entry["name"] for entry in json.loads(done.stdout)["profiles"]] == profile_names()


def test_list_says_target_device_and_weights() -> None:
    lines = CliRunner().invoke(main, ["profiles", "list"]).stdout.splitlines()
    assert len(lines) == len(profile_names())
    row = next(line for line in lines if line.startswith("orin-nx-3b "))
    for word in ("trt-plain", "NVIDIA Jetson Orin NX 16GB", "int4_rtn"):
        assert f"  {word}  " in row
    assert "  cpu, 2 threads  " in next(line for line in lines if line.startswith("cpu-1b "))


def test_show_has_a_source_for_every_value_of_a_gpu() -> None:
    lines = CliRunner().invoke(main, ["profiles", "show", "agx-orin-8b"]).stdout.splitlines()
    gpu = load_profile("agx-orin-8b").device.gpu
    assert gpu is not None
    assert sum(line.strip().startswith("from: ") for line in lines) == len(gpu.sources)
    row = next(line for line in lines if line.split()[0] == "bandwidth_gb_s")
    assert row.split()[1] == "204.8"
    assert lines[lines.index(row) + 1].strip() == f"from: {gpu.sources['bandwidth_gb_s']}"
    assert "[slo]" in lines and "[accuracy]" not in lines
    assert "[tensorrt]" not in CliRunner().invoke(main, ["profiles", "show", "cpu-1b"]).stdout


def test_show_is_the_profile() -> None:
    done = CliRunner().invoke(main, ["profiles", "show", "cpu-tiny", "--json"])
    assert json.loads(done.stdout) == load_profile("cpu-tiny").as_dict()
    assert "block_size" in CliRunner().invoke(main, ["profiles", "show", "cpu-tiny"]).stdout


def test_check_names_the_file_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("colour = 'red'", encoding="utf-8")
    assert CliRunner().invoke(main, ["profiles", "check", *profile_names()]).exit_code == 0
    done = CliRunner().invoke(main, ["profiles", "check", "cpu-tiny", str(path)])
    assert done.exit_code == 1 and str(path) in done.stderr


def test_plan_gives_the_figures(checkpoint: str) -> None:
    done = CliRunner().invoke(main, ["plan", "cpu-tiny", "--model", checkpoint, "--json"])
    document = json.loads(done.stdout)
    assert document["weight_bytes"] == 223_680
    assert document["fits"] is True


def test_plan_follows_the_overrides(checkpoint: str) -> None:
    options = ["--slots", "2", "--capacity", "64", "--precision", "fp32"]
    done = CliRunner().invoke(main, ["plan", "cpu-tiny", "--model", checkpoint, "--json", *options])
    document = json.loads(done.stdout)
    assert document["kv_bytes"] == 2 * 64 * 2560
    assert (
        document["weight_bytes"] == (260_032 + 5 * (64 * 128 + 64 * 64)) * 4
    )  # heads of 8 stored as 16


def test_plan_fails_when_it_does_not_fit(checkpoint: str) -> None:
    arguments = ["plan", "cpu-tiny", "--model", checkpoint, "--slots", "100000"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert "error: profile cpu-tiny: the engine needs" in done.stderr
    assert CliRunner().invoke(main, [*arguments, "--json"]).stdout == ""


@pytest.mark.parametrize(
    ("override", "weights", "embedding"),
    [
        (Override(), "int4_rtn", "int8"),
        (Override(precision="fp16"), "fp16", "fp16"),
        (Override(precision="int8"), "int8", "int8"),
        (Override(precision="fp32", embedding_precision="int8"), "fp32", "int8"),
        (Override(embedding_precision="fp16"), "int4_rtn", "fp16"),
    ],
)
def test_an_override_of_the_precision(override: Override, weights: str, embedding: str) -> None:
    precision = override.apply(load_profile("cpu-tiny")).precision
    assert (precision.weights, precision.embedding) == (weights, embedding)


def test_int4_keeps_the_tables_of_the_profile() -> None:
    """cpu-1b quantises its tables: a quantised weight precision must not touch that."""
    precision = Override(precision="int8").apply(load_profile("cpu-1b")).precision
    assert (precision.weights, precision.embedding) == ("int8", "int4_rtn")


def test_another_compute_type_takes_the_floats_along() -> None:
    base = load_profile("l4-1b")
    precision = Override(compute="bf16").apply(base).precision
    assert (precision.weights, precision.embedding) == ("int4_rtn", "bf16")
    assert (precision.kv, precision.compute) == ("bf16", "bf16")
    kept = Override(compute="bf16", embedding_precision="int4_rtn").apply(base).precision
    assert (kept.embedding, kept.kv) == ("int4_rtn", "bf16")
    assert Override(backend="tensorrt-rtx").apply(base).build.backend == "tensorrt-rtx"


def test_an_override_is_checked_like_a_file() -> None:
    with pytest.raises(ProfileError, match=r"limits\.slots is 0"):
        Override(slots=0).apply(load_profile("cpu-tiny"))
