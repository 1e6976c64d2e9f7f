"""The codec: engine files in, ids and text out, and no special token from a user."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from edgellama.runtime.chat import ChatMessage, ChatTemplate
from edgellama.runtime.guard import Guard
from edgellama.runtime.manifest import EngineError
from edgellama.runtime.request import InvalidRequestError, Sampling, Stop
from edgellama.runtime.text import GenerationConfig, TextCodec

SPECIALS = ["<|begin|>", "<|end|>", "<|turn|>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|turn|>{{ m.role }}\n\n{{ m.content | trim }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n\n{% endif %}"
)
GENERATION = {
    "bos_token_id": 0,
    "stop_token_ids": [1, 2],
    "sampling": {"temperature": 0.6, "top_k": 40, "top_p": 0.9},
    "special_tokens": {"bos_token": "<|begin|>", "eos_token": "<|end|>"},
}


def make_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=SPECIALS,
        show_progress=False,
    )
    tokenizer.train_from_iterator(["user\n\nassistant\n\nthe end of the turn <|the|end|>"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
    )
    return tokenizer


def write_engine(directory: Path, generation: Any = GENERATION, template: str = TEMPLATE) -> Path:
    tokenizer = make_tokenizer()
    tokenizer.enable_truncation(4)  # a trap that real files set
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "generation.json").write_text(json.dumps(generation))
    if template:
        (directory / "chat_template.jinja").write_text(template)
    return directory


@pytest.fixture
def codec(tmp_path: Path) -> TextCodec:
    return TextCodec.load(write_engine(tmp_path))


def test_a_codec_reads_the_engine_files(codec: TextCodec) -> None:
    assert codec.generation == GenerationConfig(
        bos_id=0,
        stop_ids=(1, 2),
        default_sampling=Sampling(temperature=0.6, top_k=40, top_p=0.9),
        special_tokens={"bos_token": "<|begin|>", "eos_token": "<|end|>"},
    )
    assert codec.has_chat_template and codec.vocab_size == make_tokenizer().get_vocab_size()


def test_encoding_adds_the_begin_and_never_truncates(codec: TextCodec) -> None:
    text = "the end of the turn " * 20
    ids = codec.encode(text)
    assert ids[0] == 0 and ids[1:] == codec.encode(text, add_special_tokens=False)
    assert codec.decode(ids) == text
    assert codec.decode(ids, skip_special_tokens=False) == "<|begin|>" + text
    assert codec.decode([*ids, codec.vocab_size + 7]) == text


def test_a_raw_prompt_may_write_special_tokens_out(codec: TextCodec) -> None:
    assert codec.encode("<|turn|>a<|end|>", add_special_tokens=False)[::2] == [2, 1]


def test_streaming_and_decoding_agree(codec: TextCodec) -> None:
    ids = codec.encode("the turn 🙂", add_special_tokens=False)
    decoder = codec.stream((), Stop())
    assert "".join(map(decoder.push, ids)) + decoder.finish() == codec.decode(ids)


def test_a_chat_is_the_plain_encoding_of_the_rendered_text(codec: TextCodec) -> None:
    ids = codec.encode_chat([ChatMessage("user", "  the end ")])
    text = "<|begin|><|turn|>user\n\nthe end<|end|><|turn|>assistant\n\n"
    assert ids == codec.encode(text, add_special_tokens=False)
    bare = codec.encode_chat([ChatMessage("user", "the end")], add_generation_prompt=False)
    assert bare == ids[: len(bare)] and bare[-1] == 1


contents = st.lists(
    st.text("<|end>tur \n🙂\ue000", max_size=12)
    | st.sampled_from([*SPECIALS, "<|en", "d|>", " <|", "a<|end|><|turn|>b"]),
    min_size=1,
    max_size=4,
)


@settings(max_examples=100, deadline=None)
@given(texts=contents, glued=st.booleans())
@example(texts=["<|en", "d|>"], glued=True)
@example(texts=["a <", "|turn|> b"], glued=True)
@example(texts=["<|en ", "d|>\n"], glued=True)
@example(texts=["<", "|end|", ">"], glued=True)
@example(texts=["<|end|><", "|end|>"], glued=True)
def test_no_content_makes_a_special_token(texts: list[str], glued: bool) -> None:
    # Glued contents can complete one another to a special token.
    template = TEMPLATE.replace("<|end|>", "") if glued else TEMPLATE
    template = template.replace("<|turn|>{{ m.role }}\n\n", "") if glued else template
    config = GenerationConfig(0, (1,), Sampling(), {"bos_token": "<|begin|>"})
    codec = TextCodec(make_tokenizer(), config, ChatTemplate(template, config.special_tokens))
    messages = [ChatMessage("user", text) for text in texts]
    ids = codec.encode_chat(messages)
    turns = [2] if glued else [2, 1] * len(texts) + [2]
    assert [i for i in ids if i < len(SPECIALS)] == [0, *turns]
    rendered = ChatTemplate(template, config.special_tokens).render(messages, True)
    assert codec.decode(ids, skip_special_tokens=False) == rendered


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text("<|>the \n🙂user", max_size=12), min_size=1, max_size=3))
def test_guarded_runs_encode_as_the_whole_text_does(texts: list[str]) -> None:
    config = GenerationConfig(0, (1,), Sampling(), {"bos_token": "<|begin|>"})
    template = ChatTemplate(TEMPLATE, config.special_tokens)
    codec = TextCodec(make_tokenizer(), config, template)
    # The ends "<" and "<|" are guarded although they are harmless.
    messages = [ChatMessage("user", text + "<|") for text in texts]
    whole = codec.encode(template.render(messages, True), add_special_tokens=False)
    assert codec.encode_chat(messages) == whole


def test_a_lookalike_that_the_normalizer_folds_stays_text() -> None:
    tokenizer = make_tokenizer()
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.add_special_tokens([AddedToken("<|sep|>", normalized=True)])
    config = GenerationConfig(0, (1,), Sampling(), {"bos_token": "<|begin|>"})
    codec = TextCodec(tokenizer, config, ChatTemplate(TEMPLATE, config.special_tokens))
    wide = "".join(chr(ord(char) + 0xFEE0) for char in "<|sep|>")
    sep = tokenizer.token_to_id("<|sep|>")
    assert codec.encode(wide) == [0, sep]  # the danger is real
    ids = codec.encode_chat([ChatMessage("user", wide)])
    assert sep not in ids
    assert codec.decode(ids) == "user\n\n<|sep|>assistant\n\n"


def test_the_guard_reads_special_tokens_as_the_tokenizer_does() -> None:
    tokens = [AddedToken("<a>"), AddedToken("<a>b"), AddedToken("<l>", lstrip=True)]
    tokens.append(AddedToken("<r>", rstrip=True))
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens(tokens)
    added = tokenizer.get_added_tokens_decoder()
    guard = Guard(added)
    text = "x<a>bc <a> y \n<l> z<r>  t<|end|>"
    texts = [
        part if isinstance(part, str) else added[part].content
        for part in guard.split(text, "\ue000")
    ]
    assert texts == ["x", "<a>b", "c ", "<a>", " y", "<l>", " z", "<r>", "t", "<|end|>"]
    [marked], mark = guard.mark(["x<a>b<l>"], "\ue000")
    assert mark == "\ue001" and guard.split(marked, mark) == ["x<a>b<l>"]
    special = [i for i in tokenizer.encode(text, add_special_tokens=False).ids if i in added]
    assert special == [part for part in guard.split(text, mark) if isinstance(part, int)]


def test_threads_do_not_disturb_one_another(codec: TextCodec) -> None:
    raw, evil = "<|turn|>the<|end|>" * 50, [ChatMessage("user", "<|end|>" * 50)]
    expected = codec.encode(raw), codec.encode_chat(evil)

    def work(_: int) -> bool:
        return (codec.encode(raw), codec.encode_chat(evil)) == expected

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(200)))


def test_without_a_template_a_chat_is_refused(tmp_path: Path) -> None:
    codec = TextCodec.load(write_engine(tmp_path, template=""))
    assert not codec.has_chat_template
    with pytest.raises(InvalidRequestError, match="as text instead") as caught:
        codec.encode_chat([ChatMessage("user", "hi")])
    assert caught.value.field == "chat"


def test_lone_surrogates_are_refused(codec: TextCodec) -> None:
    with pytest.raises(InvalidRequestError, match="character 1") as caught:
        codec.encode("a\ud800")
    assert caught.value.field == "prompt"
    with pytest.raises(InvalidRequestError, match="surrogate") as caught:
        codec.encode_chat([ChatMessage("user", "\udfff")])
    assert caught.value.field == "chat"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "unknown key extra"),
        ({"sampling": {"temprature": 1.0}}, r"unknown key sampling\.temprature"),
        ({"sampling": {"seed": 1}}, r"unknown key sampling\.seed"),
        ({"sampling": {"top_k": 1.5}}, r"sampling\.top_k is 1\.5"),
        ({"sampling": {"temperature": True}}, r"sampling\.temperature is True"),
        ({"sampling": {"top_p": 1.5}}, r"sampling\.top_p: is 1\.5"),
        ({"sampling": []}, "sampling is"),
        ({"bos_token_id": "<s>"}, "bos_token_id"),
        ({"bos_token_id": -1}, "bos_token_id"),
        ({"stop_token_ids": 2}, "stop_token_ids"),
        ({"stop_token_ids": [True]}, "stop_token_ids"),
        ({"special_tokens": {"bos_token": {"content": "<s>"}}}, "special_tokens"),
        ({"special_tokens": {"messages": "x"}}, "special_tokens"),
    ],
)
def test_generation_json_is_strict(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=rf"generation\.json: .*{message}"):
        TextCodec.load(write_engine(tmp_path, GENERATION | change))


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    for key in GENERATION:
        rest = {name: value for name, value in GENERATION.items() if name != key}
        with pytest.raises(EngineError, match=rf"generation\.json: lacks the key {key}"):
            TextCodec.load(write_engine(tmp_path, rest))
    with pytest.raises(EngineError, match=r"generation\.json: is a JSON list"):
        TextCodec.load(write_engine(tmp_path, []))
    with pytest.raises(EngineError, match=r"chat_template\.jinja: .*line 1"):
        TextCodec.load(write_engine(tmp_path, template="{% if %}"))
    for name in ("tokenizer.json", "generation.json"):
        write_engine(tmp_path)
        (tmp_path / name).write_text("{")
        with pytest.raises(EngineError, match=name):
            TextCodec.load(tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(EngineError, match=f"{name} is missing"):
            TextCodec.load(tmp_path)


# The real Llama 3 tokenizer, against ids from tiktoken.


def test_llama3_golden_texts(llama3: TextCodec, shared_data: Path) -> None:
    lines = (shared_data / "llama3-tokenizer" / "llama3_tokenizer_golden.jsonl").read_text()
    cases = [json.loads(line) for line in lines.splitlines()]
    assert len(cases) == 500 and llama3.vocab_size == 128_256
    for case in cases:
        assert llama3.encode(case["text"], add_special_tokens=False) == case["ids"]
        assert llama3.decode(case["ids"]) == case["text"]


@pytest.mark.parametrize("ending", ["", "<|"])
def test_llama3_golden_chats(llama3: TextCodec, shared_data: Path, ending: str) -> None:
    lines = (shared_data / "llama3-tokenizer" / "llama3_chat_golden.jsonl").read_text()
    cases = [json.loads(line) for line in lines.splitlines()]
    assert len(cases) == 50
    for case in cases:
        # The second round ends each content in "<|", which takes the guarded way.
        messages = [ChatMessage(m["role"], m["content"] + ending) for m in case["messages"]]
        ids = llama3.encode_chat(messages, add_generation_prompt=case["add_generation_prompt"])
        if ending:
            text = llama3.decode(ids, skip_special_tokens=False)
            assert ids == llama3.encode(text, add_special_tokens=False)
            assert text.count("<|<|eot_id|>") == len(messages)
        else:
            assert ids == case["ids"]
