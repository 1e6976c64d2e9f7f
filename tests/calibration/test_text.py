"""Where calibration tokens come from: the built-in text and the user's files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from edgellama.calibration.documents import Document, default_documents, read_documents
from edgellama.calibration.recipe import CalibrationError
from edgellama.calibration.samples import Samples, draw_samples
from edgellama.calibration.text import default_dialogues, default_passages
from edgellama.optimize.engine_files import write_text_files
from edgellama.runtime.chat import ChatMessage
from edgellama.runtime.text import TextCodec

QUESTION = {"role": "user", "content": "Where is the key?"}
ANSWER = {"role": "assistant", "content": "Under the mat."}


def draw(documents: list[Document], codec: TextCodec, **changes: int) -> Samples:
    settings = {"tokens": 1000, "length": 64, "seed": 0, **changes}
    return draw_samples(documents, codec, source="test", **settings)


@pytest.fixture(scope="module")
def plain(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> TextCodec:
    """The tokenizer of a base model: a byte a token, no chat template."""
    checkpoint, folder = make_checkpoint(), tmp_path_factory.mktemp("plain")
    settings = json.loads((checkpoint / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings))
    write_text_files(checkpoint, folder)
    return TextCodec.load(folder)


def test_the_built_in_text_is_enough_for_the_default(shared_data: Path) -> None:
    tokenizer = Tokenizer.from_file(str(shared_data / "llama3-tokenizer" / "tokenizer.json"))
    texts = [*default_passages(), *(f"{a} {b}" for a, b in default_dialogues())]
    assert sum(len(tokenizer.encode(text).ids) for text in texts) > 5000
    assert sum(map(len, texts)) < 50_000


def test_the_built_in_text_is_the_same_every_time() -> None:
    assert list(default_documents()) == list(default_documents())
    passages = default_passages()
    assert len(set(passages)) == len(passages)


def test_samples_are_seeded_and_exactly_as_long_as_asked(codec: TextCodec) -> None:
    documents = list(default_documents())
    first = draw(documents, codec)
    assert first == draw(documents, codec)
    assert first.tokens == 1000
    assert {len(row) for row in first.sequences[:-1]} == {64}
    other = draw(documents, codec, seed=1)
    assert other.sha256 != first.sha256 and other.tokens == 1000


def test_a_short_text_is_used_once(plain: TextCodec) -> None:
    drawn = draw([Document("a", text="x" * 100), Document("b", text="y" * 50)], plain)
    assert drawn.tokens == 150 and drawn.requested == 1000
    assert [len(row) for row in drawn.sequences] == [64, 64, 22]


def test_every_sequence_begins_as_a_text_does(codec: TextCodec) -> None:
    """The tiny tokenizer puts a BOS before a text; a piece that is cut gets it again."""
    begin = codec.encode("a")[0]
    assert begin == codec.generation.bos_id
    text = " ".join(default_passages())
    drawn = draw([Document("a", text=text)], codec, tokens=600)
    assert all(row[0] == begin and begin != row[1] for row in drawn.sequences)


@given(st.lists(st.text("ab \n", min_size=1), min_size=1, max_size=8), st.integers(2, 70))
def test_no_token_is_lost_or_repeated(plain: TextCodec, texts: list[str], length: int) -> None:
    documents = [Document("a", text=text) for text in texts]
    whole = sorted(token for text in texts if text.strip() for token in plain.encode(text))
    if not whole:
        with pytest.raises(CalibrationError, match="holds no text"):
            draw(documents, plain, length=length)
        return
    drawn = draw(documents, plain, length=length)
    found = sorted(token for row in drawn.sequences for token in row)
    assert len(found) <= len(whole) and set(found) <= set(whole)
    assert all(len(row) <= length for row in drawn.sequences)


def test_a_conversation_goes_through_the_template(codec: TextCodec, plain: TextCodec) -> None:
    messages = (ChatMessage(**QUESTION), ChatMessage(**ANSWER))
    both = Document("a", text="Where is the key? Under the mat.", messages=messages)
    chat = codec.encode_chat(list(messages), add_generation_prompt=False)
    assert draw([both], codec).sequences == (tuple(chat),)
    assert draw([both], plain).sequences == (tuple(plain.encode(both.text or "")),)
    with pytest.raises(CalibrationError, match="no chat template"):
        draw([Document("a", messages=messages)], plain)


def test_lines_of_every_form_are_read(tmp_path: Path) -> None:
    rows = [
        {"text": "plain", "source": "ignored by everyone"},
        {"messages": [QUESTION, ANSWER]},
        {"prompt": "Where is the key?", "completion": "Under the mat."},
        {"prompt": [QUESTION], "completion": [ANSWER]},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    first, second, third, fourth = read_documents(path)
    assert first.text == "plain" and not first.messages
    assert second.messages == third.messages == fourth.messages
    assert third.text == "Where is the key? Under the mat." and second.text is None


@pytest.mark.parametrize(
    "line, message",
    [
        (b'{"body": "x"}', r"line 2: has 'body'; needed: 'text', or 'messages'"),
        (b"{}", "line 2: has no field"),
        (b"[1]", "line 2: a list"),
        (b"{", "line 2: not JSON"),
        (b'{"text": "\xff"}', "line 2: not UTF-8"),
        (b'{"text": 3}', "line 2: 'text' is a int"),
        (b'{"messages": []}', "line 2: 'messages' must be a list"),
        (b'{"messages": [{"role": "user"}]}', r"line 2: messages\[0\] needs 'role' and 'content'"),
        (b'{"messages": [{"role": "bot", "content": ""}]}', "has role 'bot'; known: system"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(CalibrationError, match=message):
        list(read_documents(path))


def test_a_folder_is_read_whole_and_sorted(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.txt").write_text("one ## two ## ", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"text": "zero"}', encoding="utf-8")
    (tmp_path / ".hidden").write_bytes(b"\xff")
    assert [d.text for d in read_documents(tmp_path, "##")] == ["zero", "one", "two"]
    assert [d.text for d in read_documents(tmp_path)] == ["zero", "one ## two ## "]
    (tmp_path / "table.csv").write_text("a,b", encoding="utf-8")
    with pytest.raises(CalibrationError, match=r"table\.csv: a calibration folder holds"):
        list(read_documents(tmp_path))


def test_files_that_give_nothing_are_named(tmp_path: Path, codec: TextCodec) -> None:
    with pytest.raises(CalibrationError, match=r"missing\.txt does not exist"):
        list(read_documents(tmp_path / "missing.txt"))
    with pytest.raises(CalibrationError, match="an empty folder"):
        list(read_documents(tmp_path))
    path = tmp_path / "latin.txt"
    path.write_bytes("Grüße".encode("latin-1"))
    with pytest.raises(CalibrationError, match=r"latin\.txt: not UTF-8 \(.* at byte 2\)"):
        list(read_documents(path))
    with pytest.raises(CalibrationError, match="separator of documents is empty"):
        list(read_documents(path, ""))
    path.write_bytes(b" \n ")
    with pytest.raises(CalibrationError, match="test: holds no text"):
        draw(list(read_documents(path)), codec)
