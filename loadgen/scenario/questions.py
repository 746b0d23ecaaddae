"""The built-in questions: short, similar in length, and enough that a stage seldom repeats one. Pure data."""

from typing import Final

FIRST: Final = (
    "What is the capital of Portugal?",
    "Name three things that float on water.",
    "Explain in two sentences why the sky is blue.",
    "Write one sentence that invites a colleague to lunch.",
    "What should I pack for a weekend at the sea?",
    "Give one reason to learn to cook.",
)
_FORMS: Final = (
    "What are {} good for?",
    "Name three facts about {}.",
    "Who needs {}, and why?",
    "Write one sentence about {}.",
    "How would you explain {} to a child?",
    "Give one reason to like {}.",
    "Why do people talk about {}?",
    "Describe {} in two sentences.",
    "Which questions do people ask about {}?",
    "Tell me something surprising about {}.",
    "Where do you find {}?",
    "List two things to know about {}.",
    "When did people first have {}?",
    "Say in one line what {} are.",
    "Are {} worth their price?",
    "Compare {} with something similar.",
    "Think of a short title for a book about {}.",
    "Suggest a gift for somebody who loves {}.",
    "Do {} last long?",
    "Invent a slogan for {}.",
    "Could we live without {}?",
    "Recall an old saying about {}.",
    "Ask me a riddle about {}.",
    "Begin a story about {}.",
)
_THINGS: Final = (
    *("bicycles", "lighthouses", "tomatoes", "umbrellas", "violins", "bridges", "candles", "maps", "kites", "spoons"),
    *("clocks", "gardens", "trains", "mirrors", "rivers", "bees", "balloons", "carpets", "windmills", "pianos"),
    *("ladders", "lemons", "islands", "letters", "boats", "markets", "pencils", "volcanoes", "wheels", "scarves"),
    *("telescopes", "castles", "onions", "postcards", "tunnels", "feathers", "anchors", "museums", "kettles", "owls"),
    *("compasses", "blankets", "orchards"),
)


def _question(number: int) -> str:
    """Consecutive questions differ in form and in thing. Each pair comes once, as 25 and 43 have no common divisor."""
    round_, form = divmod(number, len(_FORMS))
    return _FORMS[form].format(_THINGS[(round_ + number) % len(_THINGS)])


QUESTIONS: Final = (*FIRST, *map(_question, range(len(_FORMS) * len(_THINGS))))
"""All different: the questions of `FIRST`, then each form with each thing."""
