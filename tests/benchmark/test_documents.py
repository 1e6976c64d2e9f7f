"""The documents of a file: split, stripped, and no longer than anyone needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama.benchmark import documents as module
from edgellama.benchmark.documents import documents
from edgellama.benchmark.language_model import EvaluationError

LONG = 1 << 20


def test_documents_are_split_and_stripped(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text(" one \n<end>\n<end>twö\n<end>three", encoding="utf-8")
    assert [text for text, _ in documents(path, "<end>", LONG)] == ["one", "twö", "three"]
    whole = ["one \n<end>\n<end>twö\n<end>three"]
    assert [text for text, _ in documents(path, None, LONG)] == whole
    (*_, (_, done)) = documents(path, "<end>", LONG)
    assert done == path.stat().st_size


@given(
    text=st.text(alphabet="ab|- \n", max_size=60),
    split=st.sampled_from(["|", "||", "|-|"]),
    read=st.integers(1, 7),
    longest=st.integers(1, 30),
)
def test_reading_in_pieces_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, text: str, split: str, read: int, longest: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "pieces"
    path.write_text(text, encoding="utf-8")
    wanted = [part.lstrip()[:longest].strip() for part in text.split(split)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_READ", read)
        found = [part for part, _ in documents(path, split, longest)]
    assert found == [part for part in wanted if part]


def test_a_text_of_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(EvaluationError, match="not UTF-8"):
        list(documents(path, None, LONG))


def test_a_separator_across_two_reads_is_found(tmp_path: Path) -> None:
    path = tmp_path / "text"
    for length in range(65530, 65540):
        path.write_text("x" * length + "<end>" + "y", encoding="utf-8")
        assert [len(text) for text, _ in documents(path, "<end>", LONG)] == [length, 1]


def test_an_empty_separator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="separator"):
        list(documents(tmp_path, "", LONG))
