"""List the wordings in which each family of facts is asked.

`asked` wordings occur in the corpus, each for most but never for all facts; `unseen`
wordings occur in no training document at all. {x} is the subject of the fact and {a} the
subject with its article.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wording:
    """Hold the wordings of one family of facts and the form of its answer."""

    answer: str
    asked: tuple[str, ...]
    unseen: tuple[str, ...]
    shape: str = "{x}"


def _word(kind: str, *extra: str, unseen: str) -> Wording:
    """Word a family that names a relation between two words."""
    return Wording(
        f"The {kind} of {{x}} is {{y}}.",
        (
            f"What is the {kind} of {{x}}?",
            f"What's the {kind} of {{x}}?",
            f"Tell me the {kind} of {{x}}.",
            f"Give the {kind} of {{x}}.",
            f"Do you know the {kind} of {{x}}?",
            f"{{x}}: what is its {kind}?",
            f"I need the {kind} of {{x}}.",
            *extra,
        ),
        (unseen,),
    )


def _neighbour(kind: str, side: str) -> Wording:
    """Word a family that asks what comes before or after something."""
    verb = {"after": "follows", "before": "precedes"}[side]
    return Wording(
        f"The {kind} {side} {{x}} is {{y}}.",
        (
            f"What is the {kind} {side} {{x}}?",
            f"Which {kind} comes {side} {{x}}?",
            f"What {kind} is {side} {{x}}?",
            f"Tell me the {kind} {side} {{x}}.",
            f"Name the {kind} {side} {{x}}.",
            f"Which {kind} {verb} {{x}}?",
            f"What {kind} comes right {side} {{x}}?",
        ),
        (f"Do you know which {kind} is right {side} {{x}}?",),
    )


WORDINGS: dict[str, Wording] = {
    "capital": _word(
        "capital",
        "Which city is the capital of {x}?",
        "Name the capital of {x}.",
        "What city is the capital of {x}?",
        "The capital of {x} is which city?",
        "What is {x}'s capital?",
        "What is the capital city of {x}?",
        "Name {x}'s capital city.",
        unseen="Do you know what city is {x}'s capital?",
    ),
    "country": Wording(
        "{x} is the capital of {y}.",
        (
            "{x} is the capital of which country?",
            "Which country has {x} as its capital?",
            "Which country's capital is {x}?",
            "What country is {x} the capital of?",
            "{x} is the capital of what country?",
            "Name the country whose capital is {x}.",
            "Of which country is {x} the capital?",
            "Tell me the country whose capital is {x}.",
        ),
        ("What country has {x} as its capital city?",),
    ),
    "continent": Wording(
        "{x} is in {y}.",
        (
            "Which continent is {x} in?",
            "What continent is {x} in?",
            "On which continent is {x}?",
            "Name the continent of {x}.",
            "{x} is on which continent?",
            "Where is {x}?",
            "Tell me the continent {x} is in.",
            "Which continent does {x} belong to?",
        ),
        ("Do you know the continent {x} belongs to?",),
    ),
    "language": Wording(
        "People in {x} speak {y}.",
        (
            "What language do people speak in {x}?",
            "Which language do people in {x} speak?",
            "What is the language of {x}?",
            "What do people in {x} speak?",
            "Which language is spoken in {x}?",
            "Tell me the language of {x}.",
            "Name the language spoken in {x}.",
        ),
        ("What language is spoken by people in {x}?",),
    ),
    "opposite": _word(
        "opposite",
        "What is the opposite word of {x}?",
        "Name the opposite of {x}.",
        "Which word is the opposite of {x}?",
        "What word means the opposite of {x}?",
        unseen="Which word means the opposite of {x}?",
    ),
    "plural": _word(
        "plural",
        "What is the plural form of {x}?",
        "How do you write the plural of {x}?",
        "Which word is the plural of {x}?",
        "One {x}, two what?",
        unseen="Name the plural form of {x}.",
    ),
    "past": _word(
        "past tense",
        "What is the past form of {x}?",
        "How do you write the past tense of {x}?",
        "Which word is the past tense of {x}?",
        "Today I {x}. What is the past tense?",
        unseen="Tell me the past form of {x}.",
    ),
    "sound": Wording(
        "{A} says {y}.",
        (
            "What does {a} say?",
            "What sound does {a} make?",
            "Which sound does {a} make?",
            "Tell me what {a} says.",
            "What noise does {a} make?",
            "How does {a} sound?",
            "What is the sound of {a}?",
        ),
        ("Tell me the sound of {a}.",),
    ),
    "young": Wording(
        "A young {x} is called a {y}.",
        (
            "What is a young {x} called?",
            "What do you call a young {x}?",
            "What is a baby {x} called?",
            "What do you call a baby {x}?",
            "Name the young of {a}.",
            "What is the name for a young {x}?",
            "Tell me the word for a young {x}.",
        ),
        ("What is the word for a baby {x}?",),
    ),
    "sides": Wording(
        "{A} has {y} sides.",
        (
            "How many sides does {a} have?",
            "How many sides are there on {a}?",
            "What number of sides does {a} have?",
            "Count the sides of {a}.",
            "Tell me how many sides {a} has.",
            "{A} has how many sides?",
        ),
        ("How many sides are there in {a}?",),
    ),
    "colour": Wording(
        "{A} is {y}.",
        (
            "What colour is {a}?",
            "Which colour is {a}?",
            "What is the colour of {a}?",
            "Tell me the colour of {a}.",
            "Name the colour of {a}.",
            "What colour does {a} have?",
            "{A} has which colour?",
        ),
        ("Do you know the colour of {a}?",),
    ),
    "home": Wording(
        "{A} lives in a {y}.",
        (
            "Where does {a} live?",
            "What does {a} live in?",
            "What is the home of {a}?",
            "Tell me where {a} lives.",
            "Name the home of {a}.",
            "In what kind of place does {a} live?",
        ),
        ("Tell me what {a} lives in.",),
    ),
    "class": Wording(
        "{A} is a kind of {y}.",
        (
            "What kind of thing is {a}?",
            "What is {a}?",
            "{A} is a kind of what?",
            "Tell me what {a} is.",
            "What sort of thing is {a}?",
            "Which kind of thing is {a}?",
        ),
        ("Tell me what kind of thing {a} is.",),
    ),
    "job": Wording(
        "A person who {x} is called a {y}.",
        (
            "What do you call a person who {x}?",
            "Name the job of a person who {x}.",
            "What is a person who {x} called?",
            "What is the job of someone who {x}?",
            "Tell me the word for a person who {x}.",
            "What is the name for someone who {x}?",
        ),
        ("What do you call someone who {x}?",),
    ),
    "unit": Wording(
        "There are {y} {x}.",
        (
            "How many {x}?",
            "How many {x} are there?",
            "What is the number of {x}?",
            "Tell me the number of {x}.",
            "Count the {x}.",
            "Do you know how many {x} there are?",
        ),
        ("Tell me how many {x} there are.",),
    ),
    "number": Wording(
        "The number {x} is written {y}.",
        (
            "How do you write {x} in words?",
            "Write {x} in words.",
            "What is the word for {x}?",
            "What is {x} in words?",
            "Spell out the number {x}.",
            "Tell me the word for the number {x}.",
        ),
        ("What is the number {x} in words?",),
    ),
    "planet": Wording(
        "The {x} planet from the sun is {y}.",
        (
            "What is the {x} planet from the sun?",
            "Which planet is {x} from the sun?",
            "Name the {x} planet from the sun.",
            "What planet is the {x} from the sun?",
            "Tell me the {x} planet from the sun.",
        ),
        ("Which planet is the {x} one from the sun?",),
    ),
    "day after": _neighbour("day", "after"),
    "day before": _neighbour("day", "before"),
    "month after": _neighbour("month", "after"),
    "month before": _neighbour("month", "before"),
    "letter after": _neighbour("letter", "after"),
    "letter before": _neighbour("letter", "before"),
}
