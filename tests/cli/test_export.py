"""`export` and the options of what a build quantises with."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch")

from edgellama.cli.__main__ import main
from edgellama.export.resolve import resolve_model

TEXT = str(resolve_model("tiny") / "config.json")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


CONTRADICTIONS = (
    (["--scales", ".", "--calibration-text", TEXT], "--scales and --calibration-text exclude"),
    (["--calibration-split", "#"], "--calibration-split needs --calibration-text"),
    (["--graph-only", "--precision", "int8"], "--graph-only writes no weights"),
    (["--graph-only", "--adapter", "a"], "--graph-only writes no weights"),
    (["--graph-only", "--profile", "cpu-tiny"], "--graph-only writes no weights"),
)


@pytest.mark.parametrize(("options", "message"), CONTRADICTIONS, ids=[c[1] for c in CONTRADICTIONS])
def test_options_that_exclude_each_other(options: list[str], message: str, tmp_path: Path) -> None:
    done = run("export", "tiny", "--out", str(tmp_path / "x"), *options)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_export_at_a_precision_says_so(tmp_path: Path) -> None:
    out = tmp_path / "model"
    done = run(
        *("export", "tiny", "--out", str(out), "--precision", "int4_rtn", "--block-size", "32"),
        *("--embedding-precision", "int8", "--json"),
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["bytes"] < 4_000_000  # 14 MB in float32
    again = run("optimize", str(out), "--profile", "cpu-tiny", "--out", str(tmp_path / "e"))
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kv-precision", "fp16"], "precision.kv is 'fp16'.*use --dtype float16"),
        (["--dtype", "float16", "--precision", "bf16"], "precision.weights is 'bf16'.*bfloat16"),
        (["--precision", "fp8", "--scales", "/no/scales"], "--scales /no/scales does not exist"),
        (["--calibration-text", "/no/text"], "--calibration-text /no/text does not exist"),
    ],
)
def test_what_cannot_be_had_is_refused_before_the_trace(
    options: list[str], message: str, tmp_path: Path
) -> None:
    done = run("export", "tiny", "--out", str(tmp_path / "x"), *options)
    assert done.exit_code == 1
    assert re.search(message, done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_calibrated_precision_without_a_tokenizer_says_what_to_do(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in resolve_model("tiny").iterdir():
        if path.name in ("config.json", "model.safetensors", "generation_config.json"):
            (bare / path.name).write_bytes(path.read_bytes())
    done = run("export", str(bare), "--out", str(tmp_path / "x"), "--precision", "fp8")
    assert done.exit_code == 1
    assert "tokenizer.json" in done.stderr
    assert not (tmp_path / "x").exists()
