"""The bytes that each token adds to a text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level_alphabet() -> dict[str, int]:
    """Return the printable stand-in of every byte (GPT-2 `bytes_to_unicode`)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in plain}
    others = (byte for byte in range(256) if byte not in plain)
    return alphabet | {chr(256 + rank): byte for rank, byte in enumerate(others)}


class TokenBytes:
    """Maps ids to bytes as the tokenizer's own decoder does, one token at a time.

    Two families of decoders work this way: `ByteLevel` (Llama 3), and `Replace`, `ByteFallback`,
    `Fuse`, `Strip` in a sequence (converted sentencepiece models). Any other is refused.

    A text is the UTF-8 reading of the bytes, U+FFFD for each ill-formed part. `tokenizers` agrees
    but for one case: a run of `ByteFallback` tokens that is ill-formed anywhere loses all its
    characters there, which nobody could know before the run ends; here only the bad part is lost.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raise ValueError naming a decoder that is not supported."""
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        self.vocab_size: int = 1 + max(
            [tokenizer.get_vocab_size(with_added_tokens=False) - 1, *added]
        )
        self.strip_start = 0
        """Spaces dropped from the start of a text, at most."""
        self._alphabet: dict[str, int] | None = None
        self._replacements: list[tuple[str, str]] = []
        self._byte_fallback = False
        self._cache: dict[int, bytes] = {}
        decoder = tokenizer.decoder
        self._read(json.loads(decoder.__getstate__()) if decoder is not None else {"type": None})

    def _read(self, decoder: dict[str, Any]) -> None:
        steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
        if [step["type"] for step in steps] == ["ByteLevel"]:
            self._alphabet = _byte_level_alphabet()
            return
        fused = False
        for step in steps:
            kind = step["type"]
            if kind == "Replace" and "String" in step["pattern"] and not self._byte_fallback:
                self._replacements.append((step["pattern"]["String"], step["content"]))
            elif kind == "ByteFallback":
                self._byte_fallback = True
            elif kind == "Fuse":
                fused = True
            elif kind == "Strip" and fused and step["content"] == " " and step["stop"] == 0:
                self.strip_start += step["start"]
            else:
                raise ValueError(
                    f"decoder {kind} of the tokenizer cannot be streamed here; supported are "
                    "ByteLevel, or Replace (String), ByteFallback, Fuse, Strip (start) in order"
                )

    def of(self, token_id: int, *, skip_special_tokens: bool) -> bytes | None:
        """Return a token's bytes; None for a skipped token and for an id without a token.

        A model may have more ids than its tokenizer: such an id adds nothing to a text.
        """
        if token_id < 0:
            raise ValueError(f"token id {token_id} is negative")
        if token_id >= self.vocab_size or (skip_special_tokens and token_id in self.special_ids):
            return None
        found = self._cache.get(token_id)
        if found is None:
            token = self._tokenizer.id_to_token(token_id)
            if token is None:
                return None
            found = self._cache[token_id] = self._bytes(token)
        return found

    def _bytes(self, token: str) -> bytes:
        if self._alphabet is not None:
            # An added token with other characters stands for itself.
            known = all(char in self._alphabet for char in token)
            return bytes(map(self._alphabet.__getitem__, token)) if known else token.encode()
        for pattern, content in self._replacements:
            token = token.replace(pattern, content)
        byte = _BYTE_TOKEN.fullmatch(token) if self._byte_fallback else None
        return bytes([int(byte[1], 16)]) if byte else token.encode()

    def strip(self, data: bytes, spaces: int) -> tuple[bytes, int]:
        """Drop up to `spaces` leading spaces; returns the rest and how many may still go."""
        rest = data.lstrip(b" ")
        dropped = min(len(data) - len(rest), spaces)
        return data[dropped:], 0 if rest else spaces - dropped

    def text(self, ids: Iterable[int], *, skip_special_tokens: bool) -> str:
        """Return the text of ids."""
        pieces = (self.of(i, skip_special_tokens=skip_special_tokens) for i in ids)
        data, _ = self.strip(b"".join(piece for piece in pieces if piece), self.strip_start)
        return data.decode("utf-8", errors="replace")
