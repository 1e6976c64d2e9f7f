"""Make small stories from a few plots, as answers and as plain text."""

import random

from edgellama.examples.tiny_llama.document import Document, Exchange, chat
from edgellama.examples.tiny_llama.words import names

NAMES = names(
    "Anna Ben Clara David Emma Finn Grace Henry Ivy Jack Kate Leo Mia Noah Olga Paul "
    "Rosa Sam Tina Victor"
)
ANIMALS = names("cat dog fox bear rabbit duck mouse owl frog horse")
_PLACES = ("forest", "village", "garden", "harbour", "farm", "valley", "town")
_THINGS = ("key", "lamp", "ball", "map", "ring", "kite", "bell", "coin")
_WEATHER = ("sunny", "rainy", "windy", "snowy", "foggy")
_FOODS = ("bread", "soup", "apples", "honey", "cake", "berries")

_PLOTS: tuple[tuple[str, ...], ...] = (
    (
        "Once upon a time there was a little {animal} who lived in a {place}.",
        "One {weather} morning the {animal} could not find its {thing}.",
        "It looked under the bed and behind the door, but the {thing} was not there.",
        'Then {name} came by and said, "I saw a {thing} near the old bridge."',
        "They walked to the bridge together, and there it was.",
        "The {animal} was so happy that it shared its {food} with {name}.",
    ),
    (
        "{name} lived in a small {place} near the sea.",
        "On a {weather} day {name} met a {animal} that was lost.",
        '"Where is your home?" asked {name}, but the {animal} did not know.',
        "{name} gave it some {food} and a warm place to sleep.",
        "The next day they found the way home.",
        "From then on {name} and the {animal} were good friends.",
    ),
    (
        "Long ago a {animal} found a {thing} in the middle of a {place}.",
        "The {thing} was old, but it shone in the light.",
        "The {animal} showed it to {name}, who liked it very much.",
        '"You may have it," said the {animal}, "if you bring me {food} every day."',
        "{name} kept the promise, even when it was {weather}.",
        'After a year the {animal} said, "A friend is better than any {thing}."',
    ),
    (
        "It was a {weather} evening in the {place}.",
        "{name} was making {food} when somebody knocked at the door.",
        "It was a tired {animal} with a {thing} in its mouth.",
        "{name} let the {animal} in and gave it some water.",
        "The {animal} put the {thing} on the table to say thank you.",
        "They sat by the fire and listened to the wind until they fell asleep.",
    ),
)

_ASKS: dict[str, tuple[str, ...]] = {
    "any": ("Tell me a story.", "Tell me a short story.", "Please tell me a story."),
    "animal": (
        "Tell me a story about a {animal}.",
        "Write a short story about a {animal}.",
        "I would like a story about a {animal}.",
    ),
    "name": ("Tell me a story about {name}.", "Write a short story about {name}."),
}


def story(rng: random.Random, animal: str, name: str) -> str:
    """Write one story of six sentences about an animal and a person."""
    filling = {
        "animal": animal,
        "name": name,
        "place": rng.choice(_PLACES),
        "thing": rng.choice(_THINGS),
        "weather": rng.choice(_WEATHER),
        "food": rng.choice(_FOODS),
    }
    # "an owl" is the only filling that needs the other article.
    return " ".join(rng.choice(_PLOTS)).format(**filling).replace(" a owl", " an owl")


def told(rng: random.Random) -> Document:
    """Make a chat that asks for a story and gets it."""
    animal, name = rng.choice(ANIMALS), rng.choice(NAMES)
    ask = rng.choice(_ASKS[rng.choice(tuple(_ASKS))]).format(animal=animal, name=name)
    return chat(Exchange(ask.replace(" a owl", " an owl"), story(rng, animal, name)))


def plain(rng: random.Random, count: int) -> Document:
    """Make a plain text of several stories, one paragraph each."""
    texts = [story(rng, rng.choice(ANIMALS), rng.choice(NAMES)) for _ in range(count)]
    return Document(text="\n\n".join(texts))
