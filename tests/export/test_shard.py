"""A safetensors header is believed only where it describes the file byte by byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from edgellama.export.error import ExportError
from edgellama.export.shard import DTYPES, read_header, read_rows

DATA = bytes(range(16))
ENTRY = {"dtype": "I8", "shape": [4, 2], "data_offsets": [0, 8]}
OTHER = {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}


def write(path: Path, header: object, data: bytes = DATA) -> Path:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_the_format_by_hand(tmp_path: Path) -> None:
    file = write(tmp_path / "x.safetensors", {"__metadata__": {}, "b": OTHER, "a": ENTRY})
    records = read_header(file)
    assert set(records) == {"a", "b"}
    assert read_rows(records["a"], 1, 3).tolist() == [[2, 3], [4, 5]]
    expected = torch.frombuffer(bytearray(DATA[8:]), dtype=torch.float32)
    assert torch.equal(read_rows(records["b"], 0, 2), expected)


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_as_the_library_writes_it(tmp_path: Path, name: str) -> None:
    tensor = torch.arange(30).reshape(5, 2, 3).to(DTYPES[name])
    scalar = torch.ones((), dtype=DTYPES[name])
    empty = torch.zeros((0, 4), dtype=DTYPES[name])
    file = tmp_path / "x.safetensors"
    save_file({"tensor": tensor, "scalar": scalar, "empty": empty}, file)
    records = read_header(file)
    assert records["tensor"].dtype == name and records["tensor"].nbytes == tensor.nbytes
    for start, stop in [(0, 5), (2, 3), (5, 5)]:
        found = read_rows(records["tensor"], start, stop)
        assert found.dtype == tensor.dtype and found.shape == tensor[start:stop].shape
        assert bytes(found.view(torch.uint8).numpy()) == bytes(
            tensor[start:stop].contiguous().view(torch.uint8).numpy()
        )
    assert read_rows(records["scalar"], 0, 1).shape == ()
    assert read_rows(records["empty"], 0, 0).shape == (0, 4)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{", "header is not JSON"),
        ("[]", "header is not an object"),
        ({"a": ENTRY}, "has 70 bytes|its header describes"),
        ({"a": ENTRY, "b": {**OTHER, "data_offsets": [9, 17]}}, "b begins at data byte 9, not at"),
        ({"a": ENTRY, "b": {**OTHER, "data_offsets": [4, 12]}}, "b begins at data byte 4, not at"),
        ({"a": {**ENTRY, "shape": [4, 3]}, "b": OTHER}, r"a: I8 \[4, 3\] is not 8 bytes"),
        ({"a": {**ENTRY, "shape": [-4, -2]}, "b": OTHER}, "tensor a has the header"),
        ({"a": {**ENTRY, "shape": [True, 8]}, "b": OTHER}, "tensor a has the header"),
        ({"a": {**ENTRY, "data_offsets": [0]}, "b": OTHER}, "tensor a has the header"),
        ({"a": 3, "b": OTHER}, "tensor a has the header"),
        ({"a": {**ENTRY, "dtype": "I4"}, "b": OTHER}, "tensor a has dtype I4"),
        ({"a": {**ENTRY, "dtype": ["I8"]}, "b": OTHER}, "tensor a has the header"),
        (f'{{"a": {json.dumps(ENTRY)}, "a": {json.dumps(ENTRY)}}}', "a is in the header twice"),
    ],
)  # fmt: skip
def test_a_header_that_does_not_fit(tmp_path: Path, header: Any, message: str) -> None:
    file = write(tmp_path / "x.safetensors", header)
    with pytest.raises(ExportError, match=rf"x\.safetensors: .*({message})"):
        read_header(file)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    file = write(tmp_path / "x.safetensors", {"a": ENTRY, "b": OTHER})
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(ExportError, match="damaged or truncated"):
            read_header(file)
    file.write_bytes(whole + b"\0")
    with pytest.raises(ExportError, match="damaged or truncated"):
        read_header(file)


def test_a_file_that_shrinks_after_its_header_was_read(tmp_path: Path) -> None:
    file = write(tmp_path / "x.safetensors", {"a": ENTRY, "b": OTHER})
    record = read_header(file)["b"]
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ExportError, match="it ends 3 bytes too early"):
        read_rows(record, 0, 2)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.safetensors"
    file.write_bytes(len(raw).to_bytes(8, "little") + raw)
    try:
        read_header(file)
    except ExportError as error:
        assert "any.safetensors" in str(error)
