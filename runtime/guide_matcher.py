"""Which tokens a guide allows next: llguidance over the engine's own tokenizer."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from edgellama.runtime.guide import Guide
from edgellama.runtime.invalid_request import InvalidRequestError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_KEPT = 64  # compiled guides, for those that ask the same again
# Half of llguidance's own bounds: what it spends on one token, 7 ms at most by its own account, so
# that no guide holds the others of a step up for long. A guide beyond them ends its own request.
_STEP_LEXER_FUEL, _STEP_ITEMS = 100_000, 25_000
# Compilation: 10 ms of the lexer at most; lexemes that are too large are not gone through ahead.
_LEXER_FUEL, _GRAMMAR_SIZE, _LEXER_STATES = 500_000, 200_000, 50_000


class GuideCompiler:
    """Makes matchers for one tokenizer; may be called by several threads.

    The first guide takes the time to read the vocabulary, some seconds for 128,256 tokens.
    """

    def __init__(self, tokenizer: Tokenizer, stop_ids: tuple[int, ...]) -> None:
        self._source = tokenizer
        self._stop_ids = stop_ids
        self._lock = threading.Lock()  # guards what follows
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[Guide, LLMatcher] = OrderedDict()
        self._pool = ThreadPoolExecutor(1, "edgellama-guide")

    def matcher(self, guide: Guide) -> GuideMatcher:
        """Compile a guide, or take it from those compiled lately; raises InvalidRequestError."""
        with self._lock:
            compiled = self._compiled.get(guide)
            if compiled is None:
                compiled = self._compile(guide)
                self._compiled[guide] = compiled
                if len(self._compiled) > _KEPT:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(guide)
            return GuideMatcher(compiled.deep_copy(), self._pool)

    def _compile(self, guide: Guide) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits, LLTokenizer

        if not self._stop_ids:
            raise InvalidRequestError("guide", "needs a model with a stop id; this one has none")
        if self._tokenizer is None:
            self._tokenizer = LLTokenizer(
                self._source.to_str(),
                n_vocab=self._source.get_vocab_size(),
                eos_token=list(self._stop_ids),
            )
        limits = LLParserLimits(
            initial_lexer_fuel=_LEXER_FUEL,
            step_lexer_fuel=_STEP_LEXER_FUEL,
            step_max_items=_STEP_ITEMS,
            max_lexer_states=_LEXER_STATES,
            max_grammar_size=_GRAMMAR_SIZE,
            verbose_errors=False,
        )
        try:
            grammar = _grammar(guide)
        except ValueError as error:
            raise InvalidRequestError(guide.field, str(error)) from error
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise InvalidRequestError(guide.field, _one_line(matcher.get_error()))
        return matcher


class GuideMatcher:
    """How far one answer is in its guide, and what may come next.

    The tokens that may come next are worked out in a thread of their own, while the model runs.
    """

    def __init__(self, matcher: LLMatcher, pool: ThreadPoolExecutor) -> None:
        self._matcher = matcher
        self._pool = pool
        self._mask: Future[bytes] = pool.submit(matcher.compute_bitmask)

    def allowed(self, vocab_size: int) -> npt.NDArray[np.bool_]:
        """Return which of the ids `[0, vocab_size)` may come next; ValueError when it cannot say.

        An id beyond the tokenizer never may.
        """
        try:
            bits = np.frombuffer(self._mask.result(), np.uint8)
        except Exception as error:  # whatever it is, it is the guide's and not the engine's
            raise ValueError(f"the guide failed: {_one_line(str(error))}") from error
        if self._matcher.is_error():
            raise ValueError(f"the guide is too complex: {_one_line(self._matcher.get_error())}")
        found = np.unpackbits(bits, bitorder="little")[:vocab_size].astype(np.bool_)
        return np.pad(found, (0, vocab_size - len(found)))

    def advance(self, token: int) -> bool:
        """Take the token that came; returns whether the text is complete and nothing may follow.

        Raises ValueError for a token that was not allowed.
        """
        if not self._matcher.consume_token(token):
            raise ValueError(f"token {token}: {_one_line(self._matcher.get_error())}")
        if self._matcher.is_stopped():
            return True
        self._mask = self._pool.submit(self._matcher.compute_bitmask)
        return False


def _grammar(guide: Guide) -> str:
    """Return the guide in llguidance's own notation; raises ValueError."""
    from llguidance import LLMatcher

    if guide.json_schema is not None:
        return LLMatcher.grammar_from_json_schema(guide.json_schema)
    if guide.regex is not None:
        return LLMatcher.grammar_from_regex(guide.regex)
    if guide.grammar is not None:
        return LLMatcher.grammar_from_lark(guide.grammar)
    assert guide.choices is not None
    return LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, guide.choices)))


def _one_line(text: str) -> str:
    return " ".join(text.split())
