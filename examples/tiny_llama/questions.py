"""Make the held-out questions: python -m examples.tiny_llama.questions."""

import json
import random
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path

import click

from edgellama.examples.tiny_llama import arithmetic, chats, strings
from edgellama.examples.tiny_llama.countries import countries
from edgellama.examples.tiny_llama.document import Exchange, Message, chat
from edgellama.examples.tiny_llama.facts import facts

FILE = Path(__file__).with_name("questions.jsonl")
SEED = 1
# How many questions of each kind are drawn from all that are held out.
COUNTS = {"fact": 300, "wording": 150, "arithmetic": 300, "string": 40, "chat": 40}


@dataclass(frozen=True, slots=True)
class Question:
    """Hold a chat that ends with a question, and the exact answer to it."""

    id: str
    kind: str
    messages: tuple[Message, ...]
    answer: str


def _chats() -> list[list[Exchange]]:
    """List chats whose combination of names, or of countries, the corpus never shows."""
    made: list[list[Exchange]] = []
    for triple in chats.memories():
        if chats.is_held_memory(*triple):
            told, asked = chats.memory(*triple)
            made += [[*told, question] for question in asked]
    capitals = {fact.subject: fact for fact in facts() if fact.family == "capital"}
    for one, two in permutations((row[0] for row in countries()), 2):
        if chats.is_held_follow(one, two):
            first, second = capitals[one], capitals[two]
            made += [[first.exchanges()[0], follow] for follow in chats.follow_ups(first, second)]
    return made


def _is_part(text: str, asked: tuple[str, ...]) -> bool:
    """Tell whether a question is part of a longer one that training asks."""
    bare = text.lower().rstrip("?.")
    return any(bare in other.lower() for other in asked)


def _all(rng: random.Random) -> dict[str, list[list[Exchange]]]:
    """List every held-out chat by kind."""
    return {
        "fact": [
            [Exchange(fact.held, fact.answer)]
            for fact in facts()
            if not _is_part(fact.held, fact.asked)
        ],
        "wording": [
            [Exchange(text, fact.answer)]
            for fact in facts()
            for text in fact.unseen
            if not _is_part(text, fact.asked)
        ],
        "arithmetic": [[arithmetic.exchange(rng, *each)] for each in arithmetic.held_sums()],
        "string": [[rng.choice(strings.exchanges(*each))] for each in strings.held()],
        "chat": _chats(),
    }


def questions() -> list[Question]:
    """Draw the held-out questions, the same ones every time."""
    rng = random.Random(SEED)
    drawn: list[Question] = []
    for kind, choices in _all(rng).items():
        for number, exchanges in enumerate(rng.sample(choices, min(COUNTS[kind], len(choices)))):
            # The last message of the chat is the answer, which is not part of the question.
            *asked, answer = chat(*exchanges).messages
            drawn.append(Question(f"{kind}-{number:03d}", kind, tuple(asked), answer.content))
    return drawn


def load(file: Path = FILE) -> list[Question]:
    """Read the questions of a file."""
    return [
        Question(
            row["id"],
            row["kind"],
            tuple(Message(**message) for message in row["messages"]),
            row["answer"],
        )
        for row in map(json.loads, file.read_text(encoding="utf-8").splitlines())
    ]


def text(drawn: list[Question]) -> str:
    """Write questions as JSON lines."""
    return "".join(json.dumps(asdict(question), ensure_ascii=False) + "\n" for question in drawn)


@click.command()
def main() -> None:
    """Write the held-out questions to questions.jsonl."""
    drawn = questions()
    FILE.write_text(text(drawn), encoding="utf-8")
    click.echo(f"Wrote {len(drawn)} questions to {FILE}.")


if __name__ == "__main__":
    main()
