"""The default calibration text: short, varied, and part of the repository."""

from __future__ import annotations

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
