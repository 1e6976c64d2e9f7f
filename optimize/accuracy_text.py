"""The text on which every build measures what it lost; no calibration ever sees it."""

from __future__ import annotations

# Plain texts and dialogues take turns, so that any budget of tokens has some of both.
TEXTS = (
    "Once upon a time there was a little bear who lived in a valley. One windy morning the bear "
    "could not find its kite. It looked under the bed and behind the door, but the kite was not "
    'there. Then Rosa came by and said, "I saw a kite near the old bridge." They walked to the '
    "bridge together, and there it was. The bear was so happy that it shared its berries with "
    "Rosa.",
    "A river begins as water that the ground cannot hold. It runs where the slope is steepest, "
    "takes sand from the outer side of each bend and leaves it on the inner side, so a straight "
    "river slowly becomes a winding one. Near the sea it has lost its speed and drops what it "
    "carried.",
    "Long ago a mouse found a coin in the middle of a town. The coin was old, but it shone in the "
    "light. The mouse showed it to Paul, who liked it very much. Paul kept the promise, even when "
    "it was snowy.",
    "The committee met on Tuesday to discuss the budget for next year. Most members agreed that "
    "the roof of the library should be repaired first, because a leak had already damaged two "
    "shelves of books. The cost was estimated at 18,400 euros.",
)
DIALOGUES = (
    ("What is the capital of Portugal?", "The capital of Portugal is Lisbon."),
    ("What is 23 + 45?", "23 + 45 = 63 + 5 = 68."),
    ("What language do people speak in Brazil?", "People in Brazil speak Portuguese."),
    (
        "Tell me a story about Leo.",
        "Leo lived in a small village near the sea. On a sunny day Leo met a duck that was lost. "
        '"Where is your home?" asked Leo, but the duck did not know. Leo gave it some bread and a '
        "warm place to sleep. The next day they found the way home. From then on Leo and the duck "
        "were good friends.",
    ),
    ("What is 7 x 8?", "7 x 8 = 56."),
    ("What is the opposite of hot?", "The opposite of hot is cold."),
    (
        "List the days of the week.",
        "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday.",
    ),
    ("What is 81 - 36?", "81 - 36 = 51 - 6 = 45."),
)
