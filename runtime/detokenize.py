"""Turn a stream of token ids into text that is final when it is given out.

Not `tokenizers.decoders.DecodeStream`: it never gives out text that ends in U+FFFD, so it loses the
end of a generation and holds everything back while a model emits ill-formed bytes.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from edgellama.runtime.request import Stop
from edgellama.runtime.stop_strings import StopStrings
from edgellama.runtime.token_bytes import TokenBytes

_UTF8_PENDING = 3  # bytes of an unfinished character, at most


class StreamDecoder:
    """Decodes the output of one request as the continuation of its prompt.

    The pieces of `push` and `finish` make up what the output adds to the text of the prompt: a
    leading space is dropped only where the prompt has no text, and a character that the prompt
    left unfinished belongs to the output. Without a prompt they make up `TokenBytes.text`.
    A token costs time in its own length, whatever came before.
    """

    def __init__(
        self,
        pieces: TokenBytes,
        prompt_ids: Sequence[int],
        stop: Stop,
        *,
        skip_special_tokens: bool = True,
    ) -> None:
        self.matched: str | None = None
        """The stop string that ended the text."""
        self._pieces = pieces
        self._skip = skip_special_tokens
        self._stop = stop
        self._stops = StopStrings(stop.strings)
        self._held = ""
        self._tokens = 0
        self._finished = False
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._spaces = self._spaces_after(prompt_ids)
        self._utf8.decode(self._tail_of(prompt_ids))

    @property
    def held(self) -> int:
        """Characters that `push` has not returned yet because a stop string may begin there."""
        return len(self._held)

    def _spaces_after(self, prompt_ids: Sequence[int]) -> int:
        """Return how many leading spaces the output may still lose to the start of the text."""
        spaces = self._pieces.strip_start
        for token_id in prompt_ids:
            if not spaces:
                break
            data = self._pieces.of(token_id, skip_special_tokens=self._skip)
            _, spaces = self._pieces.strip(data or b"", spaces)
        return spaces

    def _tail_of(self, prompt_ids: Sequence[int]) -> bytes:
        """Return the end of the prompt's bytes, enough to hold any unfinished character."""
        tail = b""
        for token_id in reversed(prompt_ids):
            if len(tail) >= _UTF8_PENDING:
                break
            tail = (self._pieces.of(token_id, skip_special_tokens=self._skip) or b"") + tail
        return tail

    def push(self, token_id: int) -> str:
        """Take one output token; returns the text that is now certain, "" after a match."""
        assert not self._finished, "push after finish"
        self._tokens += 1
        data = self._pieces.of(token_id, skip_special_tokens=self._skip)
        if self.matched is not None or not data:
            return ""
        if self._spaces:
            data, self._spaces = self._pieces.strip(data, self._spaces)
        return self._release(self._utf8.decode(data))

    def finish(self) -> str:
        """Return what was held back; an unfinished character becomes U+FFFD."""
        assert not self._finished, "finish after finish"
        self._finished = True
        if self.matched is not None:
            return ""
        text = self._release(self._utf8.decode(b"", final=True))
        return text + self._held  # a match just now leaves nothing held

    def _release(self, text: str) -> str:
        """Return `text`, after what was held, up to a match or a possible beginning of one."""
        if not self._stop.strings:
            return text
        armed = self._tokens >= self._stop.min_new_tokens
        pending = self._held + text
        for end, char in enumerate(text, start=len(self._held) + 1):
            self.matched = self._stops.advance(char, armed=armed)
            if self.matched is not None:
                self._held = ""
                return pending[: end if self._stop.keep_match else end - len(self.matched)]
        cut = len(pending) - self._stops.held
        self._held = pending[cut:]
        return pending[:cut]
