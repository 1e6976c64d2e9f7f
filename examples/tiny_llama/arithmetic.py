"""Make sums and differences of numbers below 100, and the multiplication table."""

import random
from functools import cache

from edgellama.examples.tiny_llama.document import Document, Exchange, bucket, chat

LIMIT = 100
# One pair of operands in this many is kept out of the corpus.
HELD_SHARE = 10

_WORDINGS: dict[str, tuple[str, ...]] = {
    "+": (
        "What is {a} + {b}?",
        "{a} + {b}",
        "{a} + {b} = ?",
        "What is {a} plus {b}?",
        "Add {a} and {b}.",
        "What is the sum of {a} and {b}?",
        "Calculate {a} + {b}.",
        "How much is {a} + {b}?",
    ),
    "-": (
        "What is {a} - {b}?",
        "{a} - {b}",
        "{a} - {b} = ?",
        "What is {a} minus {b}?",
        "Take {b} from {a}.",
        "What is the difference of {a} and {b}?",
        "Calculate {a} - {b}.",
        "How much is {a} - {b}?",
    ),
    "x": (
        "What is {a} x {b}?",
        "{a} x {b}",
        "{a} x {b} = ?",
        "What is {a} times {b}?",
        "Multiply {a} by {b}.",
        "What is the product of {a} and {b}?",
        "Calculate {a} x {b}.",
        "How much is {a} x {b}?",
    ),
}

Sum = tuple[int, str, int]


def result(a: int, sign: str, b: int) -> int:
    """Work out a sum, a difference or a product."""
    if sign == "+":
        return a + b
    if sign == "-":
        return a - b
    if sign == "x":
        return a * b
    raise ValueError(f"sign is {sign!r}; it must be '+', '-' or 'x': pass one of these")


def line(a: int, sign: str, b: int) -> str:
    """Write a finished sum, the tens first: "47 + 38 = 77 + 8 = 85" but "47 + 8 = 55"."""
    tens, ones = b - b % 10, b % 10
    # One digit at a time is what so small a model can work out without fail.
    between = f" = {result(a, sign, tens)} {sign} {ones}" if sign != "x" and tens and ones else ""
    return f"{a} {sign} {b}{between} = {result(a, sign, b)}"


def is_held(a: int, sign: str, b: int) -> bool:
    """Tell whether the operands are kept out of the corpus, in either order for a sum."""
    # A number of one digit, or of whole tens, may be a step in the working of another sum.
    if sign == "x" or a < 10 or b < 10 or a % 10 == 0 or b % 10 == 0:
        return False
    low, high = sorted((a, b))
    return bucket(HELD_SHARE, sign, low, high) == 0


def exchange(rng: random.Random, a: int, sign: str, b: int) -> Exchange:
    """Ask for one result in a wording drawn from the generator."""
    question = rng.choice(_WORDINGS[sign]).format(a=a, b=b)
    return Exchange(question, line(a, sign, b) + ".")


@cache
def held_sums() -> tuple[Sum, ...]:
    """List every sum and difference that the corpus never shows."""
    added = [(a, "+", b) for a in range(LIMIT) for b in range(LIMIT) if is_held(a, "+", b)]
    taken = [(a, "-", b) for a in range(LIMIT) for b in range(a + 1) if is_held(a, "-", b)]
    return tuple(added + taken)


def draw(rng: random.Random) -> Sum:
    """Draw operands that are not held out: about half sums, 2/5 differences, 1/10 products."""
    while True:
        kind = rng.random()
        if kind < 0.1:
            return rng.randint(0, 10), "x", rng.randint(0, 10)
        # One draw in five is small so that one-digit operands are not rare.
        top = 20 if rng.random() < 0.2 else LIMIT
        a, b = rng.randrange(top), rng.randrange(top)
        sign = "+" if kind < 0.55 else "-"
        if sign == "-" and a < b:
            a, b = b, a
        if not is_held(a, sign, b):
            return a, sign, b


def sheet(rng: random.Random) -> Document:
    """Make a chat that works out a list of sums, one line each."""
    sums = [draw(rng) for _ in range(rng.randint(2, 4))]
    head = rng.choice(("Work these out: ", "Calculate: ", "Solve these: ", ""))
    question = head + ", ".join(f"{a} {sign} {b}" for a, sign, b in sums)
    return chat(Exchange(question, "\n".join(line(*each) for each in sums)))


def chain(rng: random.Random) -> Document:
    """Make a chat whose later questions refer to the result before them."""
    while True:
        a, sign, b = draw(rng)
        first = result(a, sign, b)
        step = rng.randint(1, 9)
        follow = rng.choice(("+", "-"))
        if first >= LIMIT or (follow == "-" and first < step) or is_held(first, follow, step):
            continue
        verb = {"+": f"Now add {step}.", "-": f"Now take away {step}."}[follow]
        return chat(exchange(rng, a, sign, b), Exchange(verb, line(first, follow, step) + "."))
