# ruff: noqa: RUF001 - letters of other alphabets are the point
"""Words and sentences that the default calibration text is composed of."""

from __future__ import annotations

NAMES = (
    "Ana", "Boris", "Chidi", "Dalia", "Emre", "Farah", "Greta", "Hiro", "Ines", "Jonas", "Kavya",
    "Liam", "Mirela", "Nuno", "Olga", "Priya", "Quentin", "Rosa", "Samir", "Tove",
)  # fmt: skip
CITIES = (
    "Lagos", "Oslo", "Lima", "Osaka", "Izmir", "Austin", "Quito", "Riga", "Accra", "Perth",
    "Tunis", "Bergen", "Hanoi", "Turin", "Cork", "Pune",
)  # fmt: skip
PLACES = (
    "harbour", "library", "bakery", "workshop", "valley", "station", "greenhouse", "market",
    "laboratory", "kitchen", "museum", "orchard",
)  # fmt: skip
THINGS = (
    "lantern", "bicycle", "engine", "notebook", "compass", "kettle", "violin", "ladder", "camera",
    "radio", "blanket", "hammer", "telescope", "umbrella", "suitcase", "clock",
)  # fmt: skip
ADJECTIVES = (
    "quiet", "rusty", "bright", "narrow", "patient", "heavy", "curious", "fragile", "ancient",
    "cheap", "steady", "bitter", "hollow", "generous", "sudden", "plain",
)  # fmt: skip
# Past tense, and what follows it.
VERBS = (
    ("carried", "across the bridge"), ("repaired", "with a bent wire"), ("lost", "in the rain"),
    ("painted", "before breakfast"), ("borrowed", "from a neighbour"), ("sold", "for half price"),
    ("hid", "behind the stove"), ("measured", "twice"), ("found", "under the stairs"),
    ("described", "to the inspector"), ("wrapped", "in newspaper"), ("dropped", "on the tiles"),
)  # fmt: skip
NOUNS = (
    "order", "sensor", "user", "invoice", "packet", "player", "sample", "ticket", "vehicle",
    "account", "message", "recipe",
)  # fmt: skip
# A subject, what it does, why.
TOPICS = (
    ("Yeast", "makes bread rise", "it turns sugar into carbon dioxide"),
    ("A lens", "bends light", "light travels more slowly in glass than in air"),
    ("The tide", "comes in twice a day", "the Moon and the Sun pull on the oceans"),
    ("Copper", "conducts electricity well", "its outer electrons move freely"),
    ("A sail", "can drive a boat against the wind", "its curve works like a wing"),
    ("Salt", "melts ice on a road", "it lowers the freezing point of water"),
    ("A hash table", "finds a key quickly", "the key itself says where to look"),
    ("Bees", "dance in the hive", "the angle tells the others where flowers are"),
    ("An arch", "stands without mortar", "its own weight presses the stones together"),
    ("Compound interest", "grows faster every year", "interest itself earns interest"),
    ("A vaccine", "prevents an illness", "the body learns to recognise it in advance"),
    ("Soap", "removes grease", "one end of its molecule likes oil and the other likes water"),
)
FOREIGN = (
    "Der Zug nach {city} hatte {number} Minuten Verspätung, also tranken wir noch einen Kaffee.",
    "Pour la soupe, il faut {number} carottes, un oignon et un peu de patience.",
    "La biblioteca de {city} abre a las nueve y cierra cuando se va el último lector.",
    "A loja vende {number} tipos de queijo, mas hoje só há pão.",
    "Il treno per {city} parte dal binario {number}; i biglietti si comprano alla cassa.",
    "De fiets staat achter het huis, naast de {number} lege dozen.",
    "Vlakten är stilla på morgonen, och sjön ligger blank i {number} grader.",
    "Kitap masanın üstünde, anahtar ise {number} numaralı odada.",
    "Поезд в город отходит в {number} часов, билеты ещё есть.",
    "会议改到星期三下午{number}点，请带上你的笔记本。",
    "駅の前の店で、りんごを{number}個買いました。",
    "बाज़ार में आज {number} नई दुकानें खुलीं, और बारिश भी हुई।",
    "القطار يصل إلى المحطة بعد {number} دقيقة.",
    "Το πλοίο φεύγει στις {number} και φτάνει πριν νυχτώσει.",
    "서점은 {number}시에 문을 닫으니 서둘러야 해요.",
    "Xe buýt số {number} đi qua chợ rồi mới tới bến tàu.",
)
