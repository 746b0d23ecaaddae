"""Word lists of the scorer: words that carry no content, calendar names, number words, irregular verbs, synonyms.

All words are folded: in lower case and without accents (`loadgen.analysis.scorer.tokens.fold`).
"""

from collections.abc import Iterable
from typing import Final


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


STOP_WORDS: Final = frozenset(
    _words("""
    a an and are as at be been but by can could did do does for from get gets got had has have he her hers him his how
    i if in into is it its just me my no not now of off on one only or our out over she so some such than that the their
    them then there these they this those to too up upon us was we were what when where which while who will with within
    would you your also all any about after before between both during each instead until via per
    yes ok okay mr mrs ms dr prof am being shall should may might must
    don doesn didn won wouldn isn aren wasn weren couldn shouldn hasn haven hadn ain ll ve re
    """)
)
"""English words without content. `may` is here, too: the month is told by its capital."""

TITLES: Final = frozenset(_words("mr mrs ms miss dr prof professor sir madam"))

MONTHS: Final = _words("january february march april may june july august september october november december")
WEEKDAYS: Final = _words("monday tuesday wednesday thursday friday saturday sunday")
_SHORT: Final = {month[:3]: month for month in MONTHS} | {"sept": "september"}
_SHORT_DAYS: Final = {
    short: day
    for day, shorts in zip(
        WEEKDAYS, ("mon", "tue tues", "wed weds", "thu thur thurs", "fri", "sat", "sun"), strict=True
    )
    for short in shorts.split()
}
CALENDAR: Final = (
    {name: name for name in (*MONTHS, *WEEKDAYS)}
    | {f"{day}s": day for day in WEEKDAYS}
    | {"weekend": "weekend", "weekends": "weekend"}
    | _SHORT
    | _SHORT_DAYS
)
"""Months and weekdays by each of their spellings."""
CAPITAL_ONLY: Final = frozenset(_words("may march mar sun sat mon wed"))
"""Spellings in `CALENDAR` that are other words when they are written without a capital."""

_UNITS: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
UNITS: Final = {word: value for value, word in enumerate(_UNITS.split())}
TENS: Final = {
    word: 10 * value
    for value, word in enumerate(_words("twenty thirty forty fifty sixty seventy eighty ninety"), start=2)
}
SCALES: Final = {"dozen": 12, "hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_ORDINALS: Final = (
    "third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth "
    "seventeenth eighteenth nineteenth twentieth"
)
ORDINALS: Final = {word: value for value, word in enumerate(_ORDINALS.split(), start=3)} | {"thirtieth": 30}
"""`first` and `second` are left out, because they are mostly other words; beside a month they count."""
DAY_ORDINALS: Final = {"first": 1, "second": 2}

_IRREGULAR: Final = """
be is was were been am are; begin begins began begun; bring brought; build built; buy bought; catch caught; choose chose
chosen; come came; cost; deal dealt; draw drew drawn; drive drove driven; fall fell fallen; feel felt; find found; fly
flew flown; freeze froze frozen; get got gotten; give gave given; go goes went gone; grow grew grown; hold held; keep
kept; know knew known; lead led; leave left; lend lent; lose lost; make made; mean meant; meet met; pay paid; ring rang
rung; rise rose risen; run ran; say said; see saw seen; sell sold; send sent; show shown; shrink shrank shrunk; speak
spoke spoken; spend spent; stand stood; stick stuck; take took taken; teach taught; tell told; think thought; wear wore
worn; write wrote written; lie lay lain; arise arose; eat ate eaten; break broke broken; swim swam; redraw redrew
redrawn; rerun reran; rebuild rebuilt; child children; person people; woman women; man men; half halves
"""
IRREGULAR: Final = {form: forms[0] for line in _IRREGULAR.split(";") if (forms := line.split()) for form in forms[1:]}
"""Irregular forms, and the form for which each stands."""

_SPELLINGS: Final = """
percent pct; ton tonne; tons tonnes; hour hr h; hours hrs; minute min; minutes mins; second sec; seconds secs; year yr;
years yrs; week wk; weeks wks; euro eur; euros eur; number nr; phone telephone; photo photograph; photos photographs;
fridge refrigerator; page p pp pg; lab laboratory; info information; doc document; rota roster; rotas rosters;
kilometer km kms; kilogram kg kgs kilo kilos; liter l
"""
SPELLINGS: Final = {form: forms[0] for line in _SPELLINGS.split(";") if (forms := line.split()) for form in forms[1:]}
"""Abbreviations and other spellings, and the word for which each stands."""

_SYNONYMS: Final = """
ring phone call; start begin commence launch open; stop end halt pause suspend cease; rise increase grow climb jump go;
fall drop decrease decline shrink go; shrink reduce cut fall; cut drop remove scrap cancel; drop exclude remove discard
fall; buy purchase get order; get buy obtain; make create build produce write prepare; write draft prepare compose;
draft write prepare; stay remain keep; keep stay remain retain; finish complete do; approve accept pass agree; pass
approve carry accept agree; carry pass approve; move shift change postpone push reschedule; need require; check verify
confirm inspect; report present; present show; reach hit; rent hire lease; hire rent employ; ship release launch; leave
depart; arrive come dock; come arrive visit; run last go; last run take; repeat redo rerun retake; rerun redo repeat;
redraw revise redo; cost price; price cost; decide choose pick; choose decide pick; settle resolve; halve half; review
check look assess; collect fetch pick; close shut; shut close; call meeting ring phone; fail break die; file submit
deliver send; submit file send; repair fix mend; fix repair mend; mend repair fix; optional voluntary; limit cap
maximum threshold; goal target; target goal; supplier vendor; customer client; client customer; bill invoice; invoice
bill; ask request; free charge; open start; mention name; unspent left remain; left remain unspent leave; answer reply;
reply answer; talk speak; speak talk; help support; hold keep; allow permit; forbid ban prohibit; send mail forward;
assign give; announce tell; inform tell notify; tell inform notify; increase rise grow; reduce cut lower halve; remove
drop cut exclude; replace swap; swap replace; plan schedule; schedule plan rota; rota schedule
"""


def _synonyms(groups: str) -> Iterable[tuple[str, frozenset[str]]]:
    for group in groups.split(";"):
        if words := group.split():
            yield words[0], frozenset(words)


def synonyms() -> dict[str, frozenset[str]]:
    """By a word of a key point: the words by which an answer may say it."""
    table: dict[str, frozenset[str]] = {}
    for word, words in _synonyms(_SYNONYMS):
        table[word] = table.get(word, frozenset()) | words
    return table


EXPANSIONS: Final = {"fps": ("frame", "second"), "kmh": ("kilometer", "hour"), "kph": ("kilometer", "hour")}
"""Abbreviations of several words, and the words for which each stands."""

FUNCTION_WORDS: Final = {
    language: frozenset(words.split())
    for language, words in {
        "en": "the of and to is in that for it with on was as are be this will by from at has have",
        "de": "der die und das ist zu den nicht mit von auf für dem sich des ein eine wird im am bis",
        "fr": "le la les des et est une du en que pour dans sur pas qui au avec plus par il",
        "es": "el la los de que y en un una es por con para del se no las al su lo",
        "it": "il di che la è un per una del in non con si dei da le alla sono della",
        "pt": "o de que e do da em um para com não uma os no se na por mais as",
        "nl": "de het een van en is op te dat in voor met zijn niet aan er om bij ook door",
        "vi": "và của là có không được cho một các với những trong này đã để người khi từ",
    }.items()
}
"""The commonest function words, in lower case and with their accents; they tell the language of a paragraph."""

LABELS: Final = frozenset(
    _words("""
    action actions agenda attendees background conclusion context date deadline decided decision decisions details due
    followup followups heading highlights item items key meeting minutes next note notes other outcome outcomes overview
    owner owners point points present responsible result results status step steps summary takeaway takeaways task tasks
    tbd time timeline title todo todos topic topics update updates who asap fyi eod eow
    """)
)
"""Words that a summary has as headings and labels; they are no names, whatever their capitals."""
