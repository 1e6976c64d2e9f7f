"""Draw the training documents from a seed."""

import random
from collections.abc import Callable, Iterator

from edgellama.examples.tiny_llama import arithmetic, chats, strings
from edgellama.examples.tiny_llama.document import Document, Exchange, chat
from edgellama.examples.tiny_llama.facts import Fact, facts
from edgellama.examples.tiny_llama.stories import plain, told

SEED = 0

_OPENERS = ("Please tell me. ", "I have a question. ", "Quick question. ", "Hello! ", "Hi. ")
_CLOSERS = (" Thanks!", " Please answer.", " I forgot.")


def decorate(rng: random.Random, exchange: Exchange) -> Exchange:
    """Now and then wrap a question in friendly words or write it without capitals."""
    question, chance = exchange.question, rng.random()
    if chance < 0.06:
        question = rng.choice(_OPENERS) + question
    elif chance < 0.09:
        question += rng.choice(_CLOSERS)
    elif chance < 0.14:
        question = question.lower().rstrip("?. ")
    return Exchange(question, exchange.answer)


def _fact(rng: random.Random) -> Exchange:
    fact: Fact = rng.choice(facts())
    return decorate(rng, rng.choice(fact.exchanges()))


def _sum(rng: random.Random) -> Exchange:
    return decorate(rng, arithmetic.exchange(rng, *arithmetic.draw(rng)))


def _string(rng: random.Random) -> Exchange:
    return decorate(rng, strings.exchange(rng))


_EXCHANGES: tuple[tuple[int, Callable[[random.Random], Exchange]], ...] = (
    (50, _fact),
    (30, _sum),
    (14, _string),
    (4, chats.talk),
    (2, chats.counting),
)


def exchange(rng: random.Random) -> Exchange:
    """Draw one question of any kind with its answer."""
    makers = [maker for _, maker in _EXCHANGES]
    maker = rng.choices(makers, weights=[weight for weight, _ in _EXCHANGES])[0]
    return maker(rng)


def _single(rng: random.Random) -> Document:
    system = rng.choice(chats.SYSTEMS) if rng.random() < 0.08 else None
    return chat(exchange(rng), system=system)


def _several(rng: random.Random) -> Document:
    system = rng.choice(chats.SYSTEMS) if rng.random() < 0.08 else None
    return chat(*(exchange(rng) for _ in range(rng.randint(2, 4))), system=system)


def _terse(rng: random.Random) -> Document:
    return chats.terse(rng, rng.choice(facts()))


def _remembered(rng: random.Random) -> Document:
    return chats.remembered(rng, [exchange(rng) for _ in range(rng.randint(0, 2))])


def _long(rng: random.Random) -> Document:
    return chats.remembered(rng, [exchange(rng) for _ in range(rng.randint(8, 13))])


_DOCUMENTS: tuple[tuple[float, Callable[[random.Random], Document]], ...] = (
    (50.0, _single),
    (20.0, _several),
    (12.0, arithmetic.sheet),
    (2.0, arithmetic.chain),
    (5.0, chats.referring),
    (2.0, _terse),
    (2.5, _remembered),
    (1.0, _long),
    (2.0, told),
    (0.7, lambda rng: plain(rng, 1)),
    (0.3, lambda rng: plain(rng, rng.randint(2, 4))),
)


# Sums take far more examples than facts, so practice is mostly sums; the rest keeps facts fresh.
_PRACTICE: tuple[tuple[float, Callable[[random.Random], Document]], ...] = (
    (45.0, arithmetic.sheet),
    (17.0, lambda rng: chat(_sum(rng))),
    (8.0, lambda rng: chat(_string(rng))),
    (12.0, lambda rng: chat(_fact(rng))),
    (18.0, lambda rng: _draw(_DOCUMENTS, rng)),
)


def _draw(
    table: tuple[tuple[float, Callable[[random.Random], Document]], ...], rng: random.Random
) -> Document:
    makers = [maker for _, maker in table]
    return rng.choices(makers, weights=[weight for weight, _ in table])[0](rng)


def documents(count: int, seed: int = SEED) -> Iterator[Document]:
    """Yield the first `count` documents of the corpus that belongs to a seed."""
    rng = random.Random(seed)
    for _ in range(count):
        yield _draw(_DOCUMENTS, rng)


def practice(count: int, seed: int = SEED) -> Iterator[Document]:
    """Yield the first `count` documents of the second stage of training."""
    rng = random.Random(f"practice {seed}")
    for _ in range(count):
        yield _draw(_PRACTICE, rng)
