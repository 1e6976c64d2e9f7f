"""The verb `calibrate`: scales of the command's options, said in JSON and in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgellama.calibration.scale_files import load_scales
from edgellama.cli.__main__ import main

KV_ONLY = ["--precision", "int8", "--kv-precision", "int8", "--tokens", "96", "--length", "48"]


def run(*arguments: str | Path) -> Result:
    words = ["calibrate", "cpu-tiny", *map(str, arguments)]
    return CliRunner().invoke(main, words, catch_exceptions=False)


def document(*arguments: str | Path) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    read: dict[str, Any] = json.loads(done.stdout)
    return read


def test_scales_are_measured_once(checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["--model", checkpoint, "--out", tmp_path / "scales", *KV_ONLY]
    first = document(*arguments)
    assert first["text"] == first["text"] | {"source": "built-in text", "tokens": 96, "length": 48}
    assert first["recipe"] == {
        "weights": None,
        "block_size": None,
        "awq": None,
        "kv": "int8",
        "granularity": "channel",
        "capacity": 128,  # the model's context is shorter than the profile's slot
    }
    assert not first["skipped"] and first["bytes"] > 0
    scales = load_scales(tmp_path / "scales")
    assert {amax.shape for amax in scales.cache.values()} == {(32,)}
    assert document(*arguments)["skipped"]
    assert not document(*arguments, "--seed", "1", "--kv-scales", "tensor")["skipped"]
    assert {a.shape for a in load_scales(tmp_path / "scales").cache.values()} == {(1,)}


def test_a_short_text_is_said(checkpoint: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one##two##three", encoding="utf-8")
    more = ["--text", text, "--split", "##"]
    done = run("--model", checkpoint, "--out", tmp_path / "scales", *KV_ONLY, *more)
    assert done.exit_code == 0, done.output
    assert "text.txt, 11 tokens; 96 were asked for, the text has no more" in done.stdout
    assert "cache int8 (a scale a channel)" in done.stdout


def test_json_is_all_that_modelopt_leaves_on_standard_output(
    checkpoint: Path, tmp_path: Path
) -> None:
    options = ["--precision", "int4_awq", "--block-size", "32", "--awq", "awq_full"]
    few = ["--tokens", "32", "--length", "32"]
    found = document("--model", checkpoint, "--out", tmp_path / "scales", *options, *few)
    assert found["recipe"]["awq"] == "awq_full" and found["recipe"]["kv"] is None
    assert len(load_scales(tmp_path / "scales").linears) == 14


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "nothing to calibrate"),
        (["--precision", "int4_awq", "--block-size", "128"], "is no multiple of it"),
        ([*KV_ONLY[:4], "--tokens", "0"], r"calibration.tokens is 0; it must be >= 1"),
    ],
)
def test_what_cannot_be_calibrated_is_one_line(
    checkpoint: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    done = run("--model", checkpoint, "--out", tmp_path / "scales", *options)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "scales").exists()


def test_a_split_without_a_text_is_wrong_usage(tmp_path: Path) -> None:
    done = run("--out", tmp_path, "--split", "#")
    assert done.exit_code == 2 and "--split needs --text" in done.stderr
