"""Make small tasks on the letters of a word."""

import random

from edgellama.examples.tiny_llama.document import Exchange, bucket
from edgellama.examples.tiny_llama.words import names

WORDS = names(
    """cat dog sun moon tree book door fish bird milk lamp ring star rain snow wind fire sand
    gold leaf rose cake road ship boat hill farm frog bear wolf king hand foot nose desk chair
    table bread apple grape lemon water river stone house horse mouse sheep tiger plant cloud
    green black white brown happy small light night music paper train plane clock glass spoon
    knife plate shirt dress shoes beach ocean queen smile dream heart brain"""
)

# One (task, word) pair in this many is kept out of the corpus.
HELD_SHARE = 20

_TASKS: dict[str, tuple[str, ...]] = {
    "reverse": ("Reverse the word {w}.", "Write {w} backwards.", "What is {w} backwards?"),
    "spell": ("Spell {w}.", "How do you spell {w}?", "Spell the word {w}."),
    "first": (
        "What is the first letter of {w}?",
        "Which letter does {w} start with?",
        "Name the first letter of {w}.",
    ),
    "last": (
        "What is the last letter of {w}?",
        "Which letter does {w} end with?",
        "Name the last letter of {w}.",
    ),
    "upper": ("Write {w} in capital letters.", "Put {w} in capitals."),
    "count": ("How many letters are in {w}?", "Count the letters in {w}."),
    "repeat": ("Say {w} three times.", "Repeat {w} three times."),
}


def is_held(task: str, word: str) -> bool:
    """Tell whether a task on a word is kept out of the corpus."""
    return bucket(HELD_SHARE, task, word) == 0


def answer(task: str, word: str) -> str:
    """Give the one right answer to a task on a word."""
    letters = "-".join(word)
    answers = {
        "reverse": f"{letters} backwards is {'-'.join(reversed(word))}.",
        "spell": f"The word {word} is spelled {letters}.",
        "first": f"The first letter of {word} is {word[0]}.",
        "last": f"The last letter of {word} is {word[-1]}.",
        "upper": word.upper(),
        "count": f"{letters} has {len(word)} letters.",
        "repeat": f"{word} {word} {word}",
    }
    if task not in answers:
        raise ValueError(f"task is {task!r}; it must be one of {', '.join(answers)}: pass one")
    return answers[task]


def exchanges(task: str, word: str) -> list[Exchange]:
    """Ask a task on a word in every wording."""
    return [Exchange(wording.format(w=word), answer(task, word)) for wording in _TASKS[task]]


def exchange(rng: random.Random) -> Exchange:
    """Draw a task that is not held out."""
    while True:
        task, word = rng.choice(tuple(_TASKS)), rng.choice(WORDS)
        if not is_held(task, word):
            return rng.choice(exchanges(task, word))


def held() -> list[tuple[str, str]]:
    """List every (task, word) pair that the corpus never shows."""
    return [(task, word) for task in _TASKS for word in WORDS if is_held(task, word)]
