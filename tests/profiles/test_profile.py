"""A profile is read strictly: whatever is unknown, missing, of another type or out of range."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgellama.benchmark.lengths import LISTS, lengths_by_name
from edgellama.profiles.profile import (
    ProfileError,
    load_profile,
    profile_from_dict,
    profile_names,
)

VALID = """
description = "A test device"
model = "tiny"
[device]
kind = "cpu"
memory_gib = 1
threads = 2
[build]
target = "ort"
backend = "onnxruntime"
[precision]
weights = "int8"
embedding = "fp16"
kv = "fp32"
block_size = 64
[limits]
slots = 4
capacity = 128
prefill_chunk = 32
max_queue = 8
"""

# (line of VALID, what stands there instead, what the error must say)
WRONG = (
    ("slots = 4", "slots = 4\nslotz = 5", "[limits]: unknown key 'slotz'"),
    ("threads = 2", "", "device.threads is missing; a cpu needs it"),
    ("slots = 4", 'slots = "4"', "slots is '4'; a value of type int"),
    ("slots = 4", "slots = 4.0", "slots is 4.0; a value of type int"),
    ("slots = 4", "slots = true", "slots is True; a value of type int"),
    ("slots = 4", "slots = 0", "limits.slots is 0; it must be >= 1"),
    ("capacity = 128", "capacity = 1", "limits.capacity is 1; it must be >= 2"),
    ("prefill_chunk = 32", "prefill_chunk = 0", "limits.prefill_chunk is 0; it must be >= 1"),
    (
        "slots = 4",
        "slots = 4\nstep_tokens = 4",
        "limits.step_tokens is 4; it must be > limits.slots (4)",
    ),
    ("slots = 4", "slots = 4\nchunk_slowdown = 1.0", "chunk_slowdown is 1.0; it must be > 1 and"),
    ("slots = 4", "slots = 4\nchunk_slowdown = nan", "chunk_slowdown is nan; it must be > 1 and"),
    ("slots = 4", "slots = 4\nchunk_slowdown = inf", "chunk_slowdown is inf; it must be > 1 and"),
    ("slots = 4", "slots = 4\ndraft_tokens = 0", "limits.draft_tokens is 0; it must be >= 1"),
    (
        "slots = 4",
        "slots = 4\nprefix_store_mib = -1",
        "limits.prefix_store_mib is -1; it must be >= 0",
    ),
    ("slots = 4", "slots = 4\nprefix_store_mib = 0.5", "prefix_store_mib is 0.5; a value of type"),
    ("max_queue = 8", "max_queue = -1", "limits.max_queue is -1; it must be >= 1"),
    ("memory_gib = 1", "memory_gib = 0", "device.memory_gib is 0.0; it must be > 0"),
    ("memory_gib = 1", "memory_gib = nan", "device.memory_gib is nan; it must be > 0 and finite"),
    ("memory_gib = 1", "memory_gib = inf", "device.memory_gib is inf; it must be > 0 and finite"),
    ('kind = "cpu"', 'kind = "tpu"', "device.kind is 'tpu'; supported: 'cpu'"),
    ('target = "ort"', 'target = "tvm"', "build.target is 'tvm'; supported: "),
    ('weights = "int8"', 'weights = "int2"', "precision.weights is 'int2'; supported: "),
    ('embedding = "fp16"', 'embedding = "e5m2"', "precision.embedding is 'e5m2'; supported: "),
    ('kv = "fp32"', 'kv = "int2"', "precision.kv is 'int2'; supported: "),
    ("block_size = 64", "block_size = 48", "precision.block_size is 48; supported: 32, 64, 128"),
    (
        "block_size = 64",
        'block_size = 64\ngreedy_form = "last"',
        "precision.greedy_form is 'last'; supported: 'fastest', 'first'",
    ),
    (
        "block_size = 64",
        'block_size = 64\ngreedy_form = "first"',
        "precision.greedy_form is 'first' without precision.batch_weights; there is one form of",
    ),
    ("[limits]", "[limit]", "table [limits] is missing"),
    ('model = "tiny"', "", "model is None; a text is needed"),
    ('model = "tiny"', 'model = "tiny"\ncolour = "red"', "unknown key 'colour'"),
    ("[device]", "[device", "not TOML"),
    ('embedding = "fp16"', 'embedding = "fp8"', "precision.embedding is 'fp8'; supported: "),
    ("max_queue = 8", "max_queue = 8\n[calibration]\ntokens = 0", "calibration.tokens is 0; it"),
    ("max_queue = 8", "max_queue = 8\n[calibration]\nlength = 1", "calibration.length is 1; it"),
    ("max_queue = 8", 'max_queue = 8\n[calibration]\nawq = "best"', "awq is 'best'; supported"),
    ("max_queue = 8", 'max_queue = 8\n[calibration]\nkv = "row"', "kv is 'row'; supported"),
    (
        "max_queue = 8",
        "max_queue = 8\n[accuracy]\nmax_perplexity_increase = -0.1",
        "accuracy.max_perplexity_increase is -0.1; it must be >= 0",
    ),
    (
        "max_queue = 8",
        'max_queue = 8\n[accuracy]\nmax_perplexity_increase = "5 %"',
        "a value of type float | None is needed",
    ),
)


SLO = '[slo]\nttft_ms = 500.0\nitl_ms = 30.0\nsource = "ours"\n'


def write(folder: Path, text: str) -> str:
    path = folder / "box.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, VALID))
    assert profile.name == "box"  # the file's stem
    assert profile.device.memory_gib == 1.0 and isinstance(profile.device.memory_gib, float)
    assert profile.precision.embedding == "fp16"
    assert profile.limits.capacity == 128


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "box.toml"
    path.write_bytes(b'description = "\xff"')
    with pytest.raises(ProfileError, match="not TOML"):
        load_profile(str(path))


def test_the_default_block_size_is_128(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, VALID.replace("block_size = 64\n", "")))
    assert profile.precision.block_size == 128


def test_calibration_and_accuracy_may_be_left_out(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, VALID))
    assert profile.calibration.awq == "awq_full" and profile.calibration.tokens == 4096
    assert profile.accuracy.max_perplexity_increase is None
    tables = '[calibration]\nawq = "awq_lite"\n[accuracy]\nmax_perplexity_increase = 1\n'
    profile = load_profile(write(tmp_path, VALID + tables))
    assert profile.calibration.awq == "awq_lite"
    assert isinstance(profile.accuracy.max_perplexity_increase, float)
    assert profile_from_dict(profile.as_dict()) == profile


@pytest.mark.parametrize(("line", "instead", "message"), WRONG, ids=[row[2] for row in WRONG])
def test_a_wrong_file_is_refused(tmp_path: Path, line: str, instead: str, message: str) -> None:
    assert VALID.count(line) == 1
    path = write(tmp_path, VALID.replace(line, instead))
    with pytest.raises(ProfileError, match=re.escape(message)) as caught:
        load_profile(path)
    assert path in str(caught.value), "the message names the file"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ProfileError, match="cpu-tiny"):
        load_profile("no-such-device")


def test_an_absent_file_is_named() -> None:
    with pytest.raises(ProfileError, match=re.escape("/no/such.toml does not exist")):
        load_profile("/no/such.toml")


@pytest.mark.parametrize("name", profile_names())
def test_a_shipped_profile_is_valid(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.description
    assert profile.limits.prefill_chunk <= profile.limits.capacity


def test_cpu_tiny_is_shipped() -> None:
    assert {"cpu-1b", "cpu-tiny"} <= set(profile_names())


@pytest.mark.parametrize("lengths", [*LISTS, "128/32"])
def test_the_requests_of_a_service_level_have_known_lengths(tmp_path: Path, lengths: str) -> None:
    slo = load_profile(write(tmp_path, f'{VALID}{SLO}lengths = "{lengths}"\n')).slo
    assert slo is not None and slo.lengths == lengths
    assert lengths_by_name(slo.lengths).pairs


def test_a_service_level_of_unknown_lengths_is_refused(tmp_path: Path) -> None:
    assert load_profile(write(tmp_path, VALID + SLO)).slo.lengths == "chat"  # type: ignore[union-attr]
    with pytest.raises(ProfileError, match=r"slo\.lengths is '0/8'; it must be"):
        load_profile(write(tmp_path, f'{VALID}{SLO}lengths = "0/8"\n'))
