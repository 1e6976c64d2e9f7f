"""`plan` of a GPU profile: the parts, the ceiling, and refusals before anything else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgellama.cli.__main__ import main

CONFIG = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
}
KEYS = (
    "model profile parameters weight_bytes linear_bytes table_bytes norm_bytes batch_bytes "
    "kv_bytes_per_token "
    "slots capacity kv_bytes store_bytes activation_bytes hidden_bytes score_bytes logit_bytes "
    "total_bytes memory_bytes ceiling fits"
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """A folder with the config.json of Llama 3.2 1B only: a plan needs no weights."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return str(tmp_path)


def test_the_keys_of_the_json_are_stable(checkpoint: str) -> None:
    done = CliRunner().invoke(main, ["plan", "l4-1b", "--model", checkpoint, "--json"])
    document = json.loads(done.stdout)
    assert " ".join(document) == KEYS
    steps = {"rows", "context", "bytes", "ms", "tokens_per_s"}
    assert set(document["ceiling"]) == {"bandwidth_gb_s", "first", "alone", "full"}
    assert all(set(document["ceiling"][key]) == steps for key in ("first", "alone", "full"))
    assert document["ceiling"]["full"]["rows"] == document["slots"] == 32


def test_the_text_has_the_parts_and_the_ceiling(checkpoint: str) -> None:
    done = CliRunner().invoke(main, ["plan", "l4-1b", "--model", checkpoint])
    assert done.exit_code == 0
    for words in (
        "target       trt-native, tensorrt\n",
        "weights      979.63 MiB = linears ",
        "KV cache     4.00 GiB = 32 slots x 4096 tokens x 32768 B (fp16)\n",
        "decode >=    3.4 ms, 292 tokens/s: 1 x 0 tokens read 979.63 MiB at 300 GB/s\n",
        "             17.7 ms, 1804 tokens/s: 32 x 4096 tokens read 4.96 GiB at 300 GB/s\n",
    ):
        assert words in done.stdout


def test_a_cpu_has_no_row_of_the_ceiling(checkpoint: str) -> None:
    done = CliRunner().invoke(main, ["plan", "cpu-1b", "--model", checkpoint])
    assert done.exit_code == 0 and "decode" not in done.stdout
    done = CliRunner().invoke(main, ["plan", "cpu-1b", "--model", checkpoint, "--json"])
    assert json.loads(done.stdout)["ceiling"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--precision", "int4_rtn"), ("t4-3b", "NVIDIA T4", "[rule int4; source: ")),
        (("--kv-precision", "int8"), ("t4-3b", "precision.kv is 'int8'", "[rule trt-cache")),
        (("--capacity", "100000"), ("lower limits.capacity to", "[rule memory", "16 GB GDDR6")),
    ],
)
def test_a_refusal_names_the_rule(
    checkpoint: str, options: tuple[str, str], words: tuple[str, ...]
) -> None:
    done = CliRunner().invoke(main, ["plan", "t4-3b", "--model", checkpoint, "--json", *options])
    assert done.exit_code == 1 and done.stdout == ""
    for word in words:
        assert word in done.stderr
