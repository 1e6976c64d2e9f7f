"""Make the facts with one right answer and divide their wordings into asked and held out."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from edgellama.examples.tiny_llama import words
from edgellama.examples.tiny_llama.countries import LANGUAGES, countries
from edgellama.examples.tiny_llama.document import Exchange, bucket
from edgellama.examples.tiny_llama.wordings import WORDINGS


@dataclass(frozen=True, slots=True)
class Fact:
    """Hold one fact: its full answer, its one-word answer and every wording of its question."""

    family: str
    subject: str
    answer: str
    short: str
    asked: tuple[str, ...]
    held: str
    unseen: tuple[str, ...]

    def exchanges(self) -> list[Exchange]:
        """List the exchanges that training may use."""
        return [Exchange(question, self.answer) for question in self.asked]


def article(noun: str) -> str:
    """Put "a" or "an" before a noun."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _around(names: tuple[str, ...], *, circle: bool) -> tuple[list[tuple[str, str]], ...]:
    """Pair each name with the one after it and each name with the one before it."""
    after = list(zip(names, names[1:] + (names[:1] if circle else ()), strict=False))
    return after, [(right, left) for left, right in after]


def _rows() -> Iterator[tuple[str, str, str]]:
    """Yield (family, subject, answer word) for every fact."""
    for country, capital, continent in countries():
        yield "capital", country, capital
        yield "country", capital, country
        yield "continent", country, continent
    for country, language in LANGUAGES.items():
        yield "language", country, language
    for family, table in (
        ("opposite", words.OPPOSITES),
        ("plural", words.PLURALS),
        ("past", words.PASTS),
        ("sound", words.SOUNDS),
        ("young", words.YOUNG),
        ("sides", words.SHAPES),
        ("colour", words.COLOURS),
        ("home", words.HOMES),
        ("class", words.CLASSES),
        ("job", words.JOBS),
        ("unit", words.UNITS),
        ("number", words.NUMBERS),
        ("planet", list(zip(words.ORDINALS, words.PLANETS, strict=True))),
    ):
        for left, right in table:
            yield family, left, right
    for kind, names, circle in (
        ("day", words.DAYS, True),
        ("month", words.MONTHS, True),
        ("letter", words.LETTERS, False),
    ):
        after, before = _around(names, circle=circle)
        for left, right in after:
            yield f"{kind} after", left, right
        for left, right in before:
            yield f"{kind} before", left, right


def _fact(family: str, subject: str, short: str) -> Fact:
    wording = WORDINGS[family]
    with_article = article(subject)

    def fill(template: str) -> str:
        return template.format(
            x=subject, y=short, a=with_article, A=with_article[0].upper() + with_article[1:]
        )

    every = [fill(template) for template in wording.asked]
    held = every.pop(bucket(len(every), family, subject))
    unseen = tuple(fill(template) for template in wording.unseen)
    # A wording that contains a held-out one would put the held-out text into the corpus.
    kept_out = [text.lower() for text in (held, *unseen)]
    asked = tuple(text for text in every if not any(out in text.lower() for out in kept_out))
    return Fact(family, subject, fill(wording.answer), short, asked, held, unseen)


@cache
def facts() -> tuple[Fact, ...]:
    """Return every fact in a fixed order."""
    return tuple(_fact(*row) for row in _rows())
