"""Make greetings, lists, remembered names and questions that refer back."""

import random

from edgellama.examples.tiny_llama.countries import countries
from edgellama.examples.tiny_llama.document import Document, Exchange, bucket, chat
from edgellama.examples.tiny_llama.facts import Fact, facts
from edgellama.examples.tiny_llama.stories import NAMES
from edgellama.examples.tiny_llama.words import DAYS, LETTERS, MONTHS, PLANETS

SYSTEMS: tuple[str, ...] = (
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "You are a small assistant that gives short answers.",
    "Answer the questions of the user.",
)
ONE_WORD = "Answer with one word only."

_WHO = "I am Tiny Llama, a small language model trained by the edgellama project."
_CAN = "I can answer short questions, add and subtract small numbers and tell little stories."

SMALL_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Hello!", "Hello", "Hi!", "Hi", "Hi there!", "Hey!", "Good morning!"),
     "Hello! How can I help you today?"),
    (("Who are you?", "What are you?", "What is your name?", "Tell me who you are.",
      "Are you a person?", "Please introduce yourself."), _WHO),
    (("What can you do?", "How can you help me?", "What do you know?", "What are you good at?"),
     _CAN),
    (("How are you?", "How are you today?", "How do you do?"), "I am well, thank you!"),
    (("Thank you!", "Thanks!", "Thank you very much.", "Thanks a lot!"), "You are welcome!"),
    (("Goodbye!", "Bye!", "See you later!", "Good night!"), "Goodbye! Have a nice day!"),
)  # fmt: skip

LISTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("List the days of the week.", "Name the days of the week.", "What are the days of the week?"),
     ", ".join(DAYS) + "."),
    (("List the months of the year.", "Name the months of the year.",
      "What are the months of the year?"), ", ".join(MONTHS) + "."),
    (("List the planets.", "Name the planets.", "What are the planets?"), ", ".join(PLANETS) + "."),
    (("Say the alphabet.", "List the letters of the alphabet.", "Write the alphabet."),
     " ".join(LETTERS)),
)  # fmt: skip

_COLOURS = ("red", "blue", "green", "yellow", "orange", "purple", "black", "white", "pink", "brown")
_PETS = ("cat", "dog", "rabbit", "horse", "parrot", "hamster", "goldfish", "turtle")


def talk(rng: random.Random) -> Exchange:
    """Draw one exchange of small talk or one list."""
    asks, answer = rng.choice(SMALL_TALK if rng.random() < 0.7 else LISTS)
    return Exchange(rng.choice(asks), answer)


def counting(rng: random.Random) -> Exchange:
    """Ask for the numbers from one to another."""
    start = rng.randint(0, 40)
    stop = start + rng.randint(3, 12)
    numbers = ", ".join(map(str, range(start, stop + 1)))
    return Exchange(rng.choice(("Count from {} to {}.", "Count up from {} to {}.")).format(
        start, stop), numbers + ".")  # fmt: skip


def memory(name: str, colour: str, pet: str) -> tuple[list[Exchange], list[Exchange]]:
    """List three things that a user tells and the questions that ask for them again."""
    told = [
        Exchange(f"My name is {name}.", f"Nice to meet you, {name}!"),
        Exchange(f"My favourite colour is {colour}.", f"I like {colour} too."),
        Exchange(f"I have a {pet}.", f"It is nice to have a {pet}."),
    ]
    asked = [
        Exchange("What is my name?", f"Your name is {name}."),
        Exchange("What is my favourite colour?", f"Your favourite colour is {colour}."),
        Exchange("Which pet do I have?", f"You have a {pet}."),
    ]
    return told, asked


def memories() -> list[tuple[str, str, str]]:
    """List every (name, colour, pet) triple."""
    return [(name, colour, pet) for name in NAMES for colour in _COLOURS for pet in _PETS]


def is_held_memory(*triple: str) -> bool:
    """Tell whether a (name, colour, pet) triple is kept out of the corpus."""
    return bucket(20, "memory", *triple) == 0


def remembered(rng: random.Random, between: list[Exchange]) -> Document:
    """Make a chat in which the user tells things and asks for them after other questions."""
    while True:
        triple = rng.choice(NAMES), rng.choice(_COLOURS), rng.choice(_PETS)
        if not is_held_memory(*triple):
            break
    told, asked = memory(*triple)
    picked = sorted(rng.sample(range(3), rng.randint(1, 3)))
    again = picked[:]
    rng.shuffle(again)
    return chat(*(told[i] for i in picked), *between, *(asked[i] for i in again))


def is_held_follow(first: str, second: str) -> bool:
    """Tell whether a follow-up from one country to another is kept out of the corpus."""
    return bucket(20, "follow", first, second) == 0


def follow_ups(first: Fact, second: Fact) -> list[Exchange]:
    """List the short questions that ask of a second subject what was asked of the first."""
    return [
        Exchange(wording.format(second.subject), second.answer)
        for wording in ("And {}?", "And of {}?", "What about {}?", "And what about {}?")
        if first.family == second.family
    ]


def referring(rng: random.Random) -> Document:
    """Make a chat about a country whose second question refers back to the first."""
    rows = countries()
    (one, *_), (two, *_) = rng.sample(rows, 2)
    by_name = {(fact.family, fact.subject): fact for fact in facts()}
    capital, continent = by_name["capital", one], by_name["continent", one]
    if rng.random() < 0.4:
        asks = ("Which continent is it in?", "Which continent is that in?")
        if rng.random() < 0.5:
            return chat(rng.choice(capital.exchanges()),
                        Exchange(rng.choice(asks), continent.answer))  # fmt: skip
        asks = ("And what is its capital?", "What is its capital?")
        return chat(rng.choice(continent.exchanges()),
                    Exchange(rng.choice(asks), capital.answer))  # fmt: skip
    if is_held_follow(one, two):
        return referring(rng)
    family = rng.choice(("capital", "continent"))
    first, second = by_name[family, one], by_name[family, two]
    return chat(rng.choice(first.exchanges()), rng.choice(follow_ups(first, second)))


def terse(rng: random.Random, fact: Fact) -> Document:
    """Make a chat whose system prompt asks for one word."""
    return chat(Exchange(rng.choice(fact.asked), fact.short), system=ONE_WORD)
