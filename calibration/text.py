"""The default calibration text: short, varied, composed by the repository, the same every time."""

from __future__ import annotations

import json
import random

from edgellama.calibration.words import (
    ADJECTIVES,
    CITIES,
    FOREIGN,
    NAMES,
    NOUNS,
    PLACES,
    THINGS,
    TOPICS,
    VERBS,
)

_SEED = 20240418
_ROUNDS = 12
_PER_PASSAGE = 3

PASSAGES = (
    "The ferry left at dawn. Two children counted gulls from the rail while their mother slept "
    "under a coat, and by noon the island was a thin grey line behind them.",
    "To bake bread, mix 500 g of flour, 350 ml of water, 10 g of salt and a spoon of yeast. Knead "
    "for ten minutes, let the dough rest until it doubles, and bake it hot for half an hour.",
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n"
    "    return total / len(values)\n",
    "In 1969 three people flew to the Moon; two of them walked on it. The trip took about four "
    "days each way, at up to 39,000 kilometres an hour.",
    "Dear Ms. Okafor, thank you for your letter of 3 May. We can deliver the pumps by the end of "
    "June at the agreed price. Kind regards, J. Lindqvist",
    "| name | age | city |\n|---|---|---|\n| Ana | 31 | Porto |\n| Bo | 45 | Malmo |\n",
    "Why does ice float? Water expands when it freezes, so a litre of ice weighs less than a litre "
    "of water, and the lighter solid stays on top.",
    '{"id": 17, "tags": ["new", "sale"], "price": 12.5, "available": true, "note": null}',
    "Einmal im Jahr treffen sich die Nachbarn auf dem Platz. Chacun apporte un plat. Por la noche "
    "hay musica, y nadie se va temprano.",
    "If 3x + 7 = 22, then 3x = 15 and x = 5. Check: 3 * 5 + 7 = 22.",
    "Once upon a time there was a small fox who was afraid of the river. Every day it went one "
    "step closer, and one morning its feet were wet and it was not afraid any more.",
    "Warning: disconnect the power before you open the case. Remove four screws, lift the cover, "
    "and wait a minute until the capacitors are empty.",
)
QUESTIONS = (
    "What is the capital of Japan?",
    "Write one sentence about rain.",
    "What is 12 + 30?",
    "Give me three words that rhyme with light.",
)


def default_passages() -> list[str]:
    """Return plain texts: prose, code, data, tables, arithmetic and several languages."""
    draw = random.Random(_SEED)
    composed = [
        kind(draw)
        for _ in range(_ROUNDS)
        for kind in (_story, _explanation, _code, _foreign, _table, _arithmetic, _letter, _data)
    ]
    return [*PASSAGES, *composed]


def default_dialogues() -> list[tuple[str, str]]:
    """Return questions and their answers."""
    draw = random.Random(_SEED + 1)
    dialogues = []
    for subject, does, why in TOPICS:
        opening = draw.choice(("Why is it that", "Can you tell me why", "Explain briefly why"))
        dialogues.append((f"{opening} {_lower(subject)} {does}?", f"Because {why}."))
    for _ in range(_ROUNDS):
        first, second = draw.randint(11, 98), draw.randint(11, 98)
        dialogues.append((f"What is {first} + {second}?", f"{first} + {second} = {first + second}"))
        thing, adjective = draw.choice(THINGS), draw.choice(ADJECTIVES)
        task = f"Write one sentence about the {thing}. Use a word like '{adjective}'."
        dialogues.append((task, _sentence(draw, thing, adjective)))
    return dialogues


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


def _sentence(draw: random.Random, thing: str, adjective: str) -> str:
    verb, rest = draw.choice(VERBS)
    return f"{draw.choice(NAMES)} {verb} the {adjective} {thing} {rest}."


def _story(draw: random.Random) -> str:
    name, friend = draw.sample(NAMES, 2)
    city, place = draw.choice(CITIES), draw.choice(PLACES)
    lines = [f"{name} had lived in {city} for {draw.randint(2, 40)} years, above the {place}."]
    for thing in draw.sample(THINGS, _PER_PASSAGE):
        lines.append(_sentence(draw, thing, draw.choice(ADJECTIVES)))
    lines.append(f'"Is that all?" asked {friend}. "{name}, it is more than enough."')
    return " ".join(lines)


def _explanation(draw: random.Random) -> str:
    parts = draw.sample(TOPICS, 2)
    lines = [f"{subject} {does}, because {why}." for subject, does, why in parts]
    return f"# {draw.choice(ADJECTIVES).title()} facts\n\n" + "\n\n".join(lines)


def _code(draw: random.Random) -> str:
    noun, other = draw.sample(NOUNS, 2)
    limit = draw.randint(2, 500)
    forms = (
        f"def count_{noun}s({other}s: list[dict]) -> int:\n"
        f'    """Return how many {other}s have a {noun} above {limit}."""\n'
        f'    return sum(1 for item in {other}s if item["{noun}"] > {limit})\n',
        f"SELECT {noun}_id, COUNT(*) AS total\nFROM {other}s\nWHERE created_at >= '2024-0"
        f"{draw.randint(1, 9)}-01'\nGROUP BY {noun}_id\nHAVING COUNT(*) > {limit};\n",
        f"for (int i = 0; i < {limit}; ++i) {{\n    if ({noun}[i] != NULL) {{\n"
        f"        free({noun}[i]);\n    }}\n}}\n",
        f"const {noun}s = await fetch(`/api/{other}/${{id}}?limit={limit}`);\n"
        f"if (!{noun}s.ok) throw new Error('no {noun}');\n",
        f'<ul class="{noun}">\n  <li data-id="{limit}">{other}</li>\n</ul>\n',
    )
    return draw.choice(forms)


def _foreign(draw: random.Random) -> str:
    chosen = draw.sample(FOREIGN, _PER_PASSAGE)
    return " ".join(
        text.format(city=draw.choice(CITIES), number=draw.randint(2, 30)) for text in chosen
    )


def _table(draw: random.Random) -> str:
    rows = ["| item | count | price |", "|---|---:|---:|"]
    for thing in draw.sample(THINGS, _PER_PASSAGE + 1):
        rows.append(f"| {thing} | {draw.randint(1, 99)} | {draw.uniform(1, 900):.2f} |")
    return "\n".join(rows) + "\n"


def _arithmetic(draw: random.Random) -> str:
    lines = []
    for index in range(1, _PER_PASSAGE + 1):
        first, second = draw.randint(3, 400), draw.randint(3, 40)
        lines.append(f"{index}. {first} * {second} = {first * second}")
    factor, offset, root = draw.randint(2, 9), draw.randint(1, 30), draw.randint(2, 12)
    total = factor * root + offset
    lines.append(
        f"If {factor}x + {offset} = {total}, then {factor}x = {total - offset}, x = {root}."
    )
    return "\n".join(lines)


def _letter(draw: random.Random) -> str:
    name, sender = draw.sample(NAMES, 2)
    thing, (verb, rest) = draw.choice(THINGS), draw.choice(VERBS)
    return (
        f"Dear {name},\n\nthank you for your message of {draw.randint(1, 28)} March. The {thing} "
        f"that you {verb} {rest} will be replaced within {draw.randint(2, 14)} days. Please keep "
        f"the receipt (no. {draw.randint(1000, 99999)}).\n\nKind regards,\n{sender}\n"
    )


def _data(draw: random.Random) -> str:
    record = {
        "id": draw.randint(1, 9999),
        "name": draw.choice(NAMES),
        "city": draw.choice(CITIES),
        "score": round(draw.random(), 4),
        "tags": draw.sample(ADJECTIVES, 2),
        "active": draw.random() < 0.5,
    }
    return json.dumps({draw.choice(NOUNS): record})
