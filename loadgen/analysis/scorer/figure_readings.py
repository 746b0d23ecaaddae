"""The figures of a text: numbers, clock times and numeric dates, each with all that it may mean.

A figure has readings, because one spelling may mean several things: `3/4` is the 3rd of April or the 4th of March,
`18.500` is 18,500 or 18.5. A reading is a sequence of requirements, and a requirement a set of atoms of which one
suffices. Atoms are canonical texts: two figures mean the same if they share one. A clock time has an atom for each of
its halves of the day that it may mean: `19:00` has `19` and `7p`, `7 pm` the same, `7` has `7`, `7a` and `7p`, `7 am`
has only `7a`.
"""

import re
from typing import Final

from loadgen.analysis.scorer.vocabulary import MONTHS

Reading = tuple[frozenset[str], ...]
Readings = tuple[Reading, ...]

_GROUP_SIGNS: Final = r",.'’ \u00a0\u2009\u202f"
FIGURE: Final = re.compile(
    rf"""
    (?P<iso>\d{{4}}-\d{{2}}-\d{{2}}(?!\d))
    | (?P<slash>\d{{1,2}}/\d{{1,2}}(?:/\d{{2,4}})?(?![\d/]))
    | (?P<dotted>\d{{1,2}}\.\d{{1,2}}\.(?:\d{{4}}|\d{{2}}(?!\d))?(?![.:]?\d))
    | (?P<clock>\d{{1,2}}[:.h]\d{{2}}(?!\d|[.:]\d\d\d))(?::\d\d)?(?:[ \u00a0]?(?P<half>[ap])\.?[ ]?m\b\.?)?
    | (?P<hour>\d{{1,2}})[ \u00a0]?(?P<half_of_hour>[ap])\.?[ ]?m\b\.?
    | (?P<grouped>\d{{1,3}}(?:[{_GROUP_SIGNS}]\d{{3}})+(?!\d))(?P<fraction>[.,]\d{{1,2}}(?!\d))?
    | (?P<plain>\d+(?:[.,]\d+)*)
    """,
    re.VERBOSE | re.IGNORECASE,
)
SUFFIX: Final = re.compile(r"[ \u00a0]?(k|m|mio|mn|bn|thousand|million|billion)\b", re.IGNORECASE)
_FACTORS: Final = {
    "k": 1e3,
    "thousand": 1e3,
    "m": 1e6,
    "mio": 1e6,
    "mn": 1e6,
    "million": 1e6,
    "bn": 1e9,
    "billion": 1e9,
}


def readings_of(match: re.Match[str], suffix: str = "") -> Readings:
    """All that a figure may mean. match: of `FIGURE`. suffix: a multiplier after it, such as `k`."""
    text = match[0]
    match match.lastgroup:
        case "clock" if suffix and "." in text:  # 1.34k
            return (_number(float(text) * _FACTORS[suffix.lower()]),)
        case "iso":
            year, month, day = text.split("-")
            return (*_dates(int(day), int(month), year), _number(float(day)))
        case "slash":
            first, second = (int(part) for part in text.split("/")[:2])
            return (*_dates(first, second), *_dates(second, first), (_atoms(first), _atoms(second)))
        case "dotted":
            day, month, *_ = text.split(".")
            times = _clock(f"{day}.{month}", "") if len(month) == 2 else ()
            return (*_dates(int(day), int(month)), _number(float(f"{day}.{month}")), *times)
        case "clock" | "half":
            times = _clock(match["clock"], match["half"] or "")
            is_only_time = match["half"] is not None or "." not in match["clock"]
            return times if is_only_time else (*times, _number(float(match["clock"])))
        case "half_of_hour":
            return _clock(match["hour"], match["half_of_hour"])
        case _:
            plain = _amounts(match, 1.0)
            if re.fullmatch(r"0\d[0-5]\d", text):  # a time without a colon
                return (*plain, *_clock(f"{text[:2]}:{text[2:]}", ""))
            if not suffix:
                return plain
            scaled = _amounts(match, _FACTORS[suffix.lower()])
            return (*scaled, *plain) if suffix.lower() == "m" else scaled  # `m` may be meters, too


def number_readings(value: float) -> Readings:
    """The readings of a number."""
    return (_number(value),)


def half_hour_readings(hour: int, minutes: int) -> Readings:
    """The readings of a time in words, such as `half past six`: in both halves of the day."""
    return _clock(f"{hour}:{minutes:02d}", "")


def _amounts(match: re.Match[str], factor: float) -> Readings:
    """A number: with thousands set apart, or with a fraction after a point or a comma."""
    grouped = match["grouped"]
    if grouped is None:
        parts = re.split("[.,]", match["plain"])
        if len(parts) > 2:  # a version or an address
            return ((frozenset((match["plain"],)),),)
        return (_number(float(".".join(parts)) * factor),)
    integer = float(re.sub(r"\D", "", grouped))
    fraction = match["fraction"]
    values = [integer + (float(f"0.{fraction[1:]}") if fraction else 0.0)]
    readings = [_number(value * factor) for value in values]
    signs = set(re.findall(r"\D", grouped))
    if re.fullmatch(r"\d+\.\d+", grouped) and fraction is None:  # a fraction of three digits, after a point alone
        readings.append(_number(float(grouped) * factor))
    if signs == {" "}:  # two numbers beside each other
        readings.append(tuple(_atoms(float(part)) for part in grouped.split()))
    return tuple(readings)


def _number(value: float) -> Reading:
    return (_atoms(value),)


def _atoms(value: float) -> frozenset[str]:
    text = canonical(value)
    return frozenset((text, f"{text}a", f"{text}p")) if value in range(1, 13) else frozenset((text,))


def canonical(value: float) -> str:
    """A number in its shortest form: `18500`, `5.5`."""
    return f"{value:.10g}" if abs(value) < 1e10 else f"{value:.0f}"


def _dates(day: int, month: int, year: str | None = None) -> Readings:
    if not (1 <= day <= 31 and 1 <= month <= 12):
        return ()
    date = (_atoms(day), frozenset((MONTHS[month - 1],)))
    return (date,) if year is None else ((*date, frozenset((year,))), date)


def _clock(text: str, half: str) -> Readings:
    """The reading of a time; none if there is no such time."""
    hour_text, _, minute_text = re.sub("[.hH]", ":", text).partition(":")
    hour, minutes = int(hour_text), minute_text or "00"
    if hour > 23 or int(minutes) > 59:
        return ()
    tail = "" if minutes == "00" else f":{minutes}"
    half = half.lower()
    if half == "p" or (not half and hour >= 13):
        hour = hour % 12 + 12
        return ((frozenset((f"{hour}{tail}", f"{(hour - 1) % 12 + 1}{tail}p")),),)
    if half == "a" or (not half and hour_text.startswith("0")):
        return ((frozenset((f"{hour % 12 if half else hour}{tail}a",)),),)
    return ((frozenset((f"{hour}{tail}", f"{hour}{tail}a", f"{hour}{tail}p")),),)
