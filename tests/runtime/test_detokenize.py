"""Streaming text: equal to decoding at once, whole characters, no stop string given away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from edgellama.runtime.detokenize import StreamDecoder
from edgellama.runtime.request import Stop
from edgellama.runtime.stop_strings import StopStrings
from edgellama.runtime.text import TextCodec
from edgellama.runtime.token_bytes import TokenBytes

SENTENCES = ["The small bear ate an apple.", "Grüße aus Zürich, 你好 🙂!", "a  b\n\n c"]


def byte_level() -> Tokenizer:
    """A byte-level BPE tokenizer as Llama 3 has one, of a few merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|begin|>", "<|end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def byte_fallback() -> Tokenizer:
    """A converted sentencepiece tokenizer: spaces are ▁, unknown characters become bytes."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += ["▁", *"abcdeghilmnprstzTGü.,", "▁a", "▁▁", "be", "▁be"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={name: row for row, name in enumerate(names)},
            merges=[("▁", "a"), ("▁", "▁"), ("b", "e"), ("▁", "be")],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(names[:3])
    return tokenizer


BUILT = {"byte level": byte_level(), "byte fallback": byte_fallback()}
PIECES = {name: TokenBytes(tokenizer) for name, tokenizer in BUILT.items()}
both = pytest.mark.parametrize("name", list(BUILT))
texts = st.text(max_size=30) | st.text("ab é你🙂\n ", max_size=30)


def stream(decoder: StreamDecoder, ids: list[int]) -> str:
    return "".join([decoder.push(token_id) for token_id in ids] + [decoder.finish()])


@both
@settings(max_examples=150, deadline=None)
@given(text=texts)
def test_streaming_equals_the_library_on_text(name: str, text: str) -> None:
    ids = BUILT[name].encode(text, add_special_tokens=False).ids
    decoder = StreamDecoder(PIECES[name], (), Stop())
    parts = [decoder.push(token_id) for token_id in ids]
    assert "".join(parts) == text  # nothing of a whole text waits for `finish`
    assert decoder.finish() == ""
    assert PIECES[name].text(ids, skip_special_tokens=True) == text
    assert BUILT[name].decode(ids) == text


@both
@settings(max_examples=150, deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_streaming_equals_decoding_any_ids(name: str, data: st.DataObject, skip: bool) -> None:
    size = PIECES[name].vocab_size
    ids = data.draw(st.lists(st.integers(0, size + 5), max_size=25))
    whole = PIECES[name].text(ids, skip_special_tokens=skip)
    decoder = StreamDecoder(PIECES[name], (), Stop(), skip_special_tokens=skip)
    assert stream(decoder, ids) == whole
    library = BUILT[name].decode(ids, skip_special_tokens=skip)
    if name == "byte level" or "�" not in library:
        assert whole == library


@both
@settings(max_examples=100, deadline=None)
@given(text=texts, prompt=texts, cut=st.integers(0, 60))
def test_the_output_continues_the_prompt(name: str, text: str, prompt: str, cut: int) -> None:
    ids = BUILT[name].encode(prompt + text, add_special_tokens=False).ids
    before, after = ids[:cut], ids[cut:]
    whole = StreamDecoder(PIECES[name], (), Stop())
    start = "".join(whole.push(token_id) for token_id in before)
    continued = stream(StreamDecoder(PIECES[name], [*before], Stop()), after)
    assert start + continued == prompt + text


def test_a_leading_space_is_kept_after_a_prompt_and_dropped_without_one() -> None:
    tokenizer, pieces = BUILT["byte fallback"], PIECES["byte fallback"]
    space_a, begin = tokenizer.token_to_id("▁a"), tokenizer.token_to_id("<s>")
    assert stream(StreamDecoder(pieces, [begin], Stop()), [space_a, begin, space_a]) == "a a"
    assert stream(StreamDecoder(pieces, [begin, space_a], Stop()), [space_a]) == " a"
    # The prompt's own lone space was the one to drop.
    space = tokenizer.token_to_id("▁")
    assert stream(StreamDecoder(pieces, [begin, space], Stop()), [space_a]) == " a"


def test_a_character_is_given_out_whole() -> None:
    ids = BUILT["byte fallback"].encode("你", add_special_tokens=False).ids[1:]
    decoder = StreamDecoder(PIECES["byte fallback"], (), Stop())
    assert [decoder.push(token_id) for token_id in ids] == ["", "", "你"]
    cut_off = StreamDecoder(PIECES["byte fallback"], (), Stop())
    assert [cut_off.push(ids[0]), cut_off.push(ids[1]), cut_off.finish()] == ["", "", "�"]


def test_ill_formed_bytes_do_not_hold_the_text_back() -> None:
    bad = BUILT["byte fallback"].token_to_id("<0xFF>")
    decoder = StreamDecoder(PIECES["byte fallback"], (), Stop())
    assert [decoder.push(bad) for _ in range(4)] == ["�"] * 4


def test_ids_without_a_token_add_nothing_and_negative_ones_are_refused() -> None:
    pieces = PIECES["byte level"]
    word = BUILT["byte level"].encode("bear").ids
    ids = [pieces.vocab_size, *word, 2**40]
    assert pieces.text(ids, skip_special_tokens=False) == "bear"
    with pytest.raises(ValueError, match="-1 is negative"):
        pieces.of(-1, skip_special_tokens=True)


@both
def test_special_tokens_show_only_when_asked_for(name: str) -> None:
    tokenizer, pieces = BUILT[name], PIECES[name]
    special = min(pieces.special_ids)
    ids = [*tokenizer.encode("be", add_special_tokens=False).ids, special]
    assert stream(StreamDecoder(pieces, (), Stop()), ids) == "be"
    shown = stream(StreamDecoder(pieces, (), Stop(), skip_special_tokens=False), ids)
    assert shown == "be" + tokenizer.id_to_token(special)


def test_other_decoders_are_refused_by_name() -> None:
    for decoder in (decoders.WordPiece(), decoders.Sequence([decoders.Strip(" ", 1, 0)]), None):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.decoder = decoder
        kind = {None: "None"}.get(decoder, "WordPiece|Strip")
        with pytest.raises(ValueError, match=rf"decoder ({kind}) .* ByteLevel"):
            TokenBytes(tokenizer)


# Stop strings. `letters` reads each id as one token of one to three characters.


def earliest(text: str, stops: tuple[str, ...], sizes: list[int], minimum: int) -> str | None:
    """The reference: the match that ends first, of those the longest; counted from `minimum`."""
    ends = [end for end, size in enumerate(sizes, 1) for _ in range(size)]  # tokens by character
    for end in range(1, len(text) + 1):
        hits = [stop for stop in stops if text[:end].endswith(stop)]
        if hits and ends[end - 1] >= minimum:
            return text[: end - len(max(hits, key=len))] + "|" + max(hits, key=len)
    return None


@settings(max_examples=250, deadline=None)
@given(
    pieces=st.lists(st.text("abü", min_size=1, max_size=3), max_size=12),
    stops=st.lists(st.text("abü", min_size=1, max_size=5), min_size=1, max_size=4),
    minimum=st.integers(0, 4),
    keep=st.booleans(),
)
def test_stop_strings_match_a_plain_search(
    pieces: list[str], stops: list[str], minimum: int, keep: bool
) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([*dict.fromkeys(map(spelled, pieces))])
    ids = [tokenizer.token_to_id(spelled(piece)) for piece in pieces]
    stop = Stop(strings=tuple(stops), min_new_tokens=minimum, keep_match=keep)
    decoder = StreamDecoder(TokenBytes(tokenizer), (), stop)
    given_out, text = [], "".join(pieces)
    expected = earliest(text, tuple(stops), [len(piece) for piece in pieces], minimum)
    for token_id in ids:
        given_out.append(decoder.push(token_id))
        so_far = "".join(given_out)
        # Never more than the final text, and no character is taken back.
        assert (text if expected is None else expected.replace("|", "")).startswith(so_far)
    matched_before_finish = decoder.matched
    given_out.append(decoder.finish())
    assert decoder.matched == matched_before_finish
    if expected is None:
        assert decoder.matched is None and "".join(given_out) == text
    else:
        before, match = expected.split("|")
        assert decoder.matched == match
        assert "".join(given_out) == before + (match if keep else "")
        if minimum == 0:
            assert not any(one in before for one in stops)


def spelled(text: str) -> str:
    """Write a text in the byte-level alphabet."""
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)[
        0
    ][0]


def test_text_waits_exactly_as_long_as_a_stop_string_may_begin() -> None:
    stops = StopStrings(["END", "abab"])
    held = []
    for char in "xENxababa":
        stops.advance(char, armed=False)
        held.append(stops.held)
    assert held == [0, 1, 2, 0, 1, 2, 3, 2, 3]


def test_nothing_follows_a_match() -> None:
    tokenizer, pieces = BUILT["byte level"], PIECES["byte level"]
    ids = tokenizer.encode("The small bear ate an apple.").ids
    kept = StreamDecoder(pieces, (), Stop(strings=("all b",), keep_match=True))
    assert stream(kept, ids) == "The small b" and kept.matched == "all b"
    dropped = StreamDecoder(pieces, (), Stop(strings=("all b",)))
    assert stream(dropped, ids) == "The sm" and dropped.matched == "all b"


def test_a_stop_string_completed_by_the_last_bad_bytes_is_found() -> None:
    lead = BUILT["byte fallback"].token_to_id("<0xE4>")
    decoder = StreamDecoder(PIECES["byte fallback"], (), Stop(strings=("�",)))
    assert decoder.push(lead) == "" and decoder.finish() == "" and decoder.matched == "�"


# The real tokenizers.


@settings(max_examples=100, deadline=None)
@given(text=texts, seed=st.lists(st.integers(0, 128_300), max_size=15))
def test_llama3_streams_any_text_and_any_ids(
    llama3: TextCodec, llama3_tokenizer: Tokenizer, text: str, seed: list[int]
) -> None:
    ids = llama3.encode(text, add_special_tokens=False)
    assert stream(llama3.stream((), Stop()), ids) == text
    assert stream(llama3.stream((), Stop()), seed) == llama3_tokenizer.decode(seed)


def test_the_real_models_outputs_stream_as_the_continuation(shared_data: Path) -> None:
    for model in ("stories260k", "babyllama105"):
        tokenizer = Tokenizer.from_file(str(shared_data / model / "tokenizer.json"))
        pieces = TokenBytes(tokenizer)
        for case in json.loads((shared_data / model / "greedy.json").read_text())["cases"]:
            prompt, output = case["prompt_ids"], case["new_ids_no_stop"]
            expected = tokenizer.decode(prompt + output)[len(tokenizer.decode(prompt)) :]
            assert stream(StreamDecoder(pieces, prompt, Stop()), output) == expected
