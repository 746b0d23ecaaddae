"""HdrHistogram's interval log, version 1.3, as text; knows no stage, no summary and no file.

    #[StartTime: <epoch seconds> (seconds since epoch), <UTC>]
    #[BaseTime: <epoch seconds> (seconds since epoch)]
    Tag=<tag>,<start s since the base time>,<length s>,<max ms>,<V2 compressed histogram, base64>

Values are ns. The base time is written because without it, readers guess from the start times whether they are
absolute. Lines end in a bare newline, so open the file with `newline="\\n"`.
"""

import math
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from urllib.parse import quote

from msgspec import Struct

from loadgen.errors import InputError
from loadgen.stats.histogram import Histogram

_INTERVAL_FORMAT = "[Tag=<tag>,]<start>,<length>,<max>,<histogram>"
_LEGEND = '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"'
# The characters that separate fields or lines for some reader: commas, blanks, and the line ends of its language.
_SEPARATORS = re.compile(r"[\s,\x00-\x1f\x7f-\x9f]")
_UNSAFE = re.compile(rf"%|{_SEPARATORS.pattern}")
_NUMBER = re.compile(r"\d+(\.\d*)?", re.ASCII)


class Interval(Struct, frozen=True):
    """One line of the log: the values of a tag during one interval of time.

    tag: from `tag`, or "" for none. start_s: seconds since the log's start time, 0 or more. length_s: 0 or more.
    """

    tag: str
    start_s: float
    length_s: float
    histogram: Histogram


def tag(target: str, model: str, level: str, metric: str) -> str:
    """`<target>/<model>/<level>/<metric>`, with commas, blanks, control characters and percent signs encoded as in URLs
    (`%20`), and also slashes in the target.

    Slashes in the model stay, because many models have them (`org/name`). Different names have different tags.
    """
    escaped = (_UNSAFE.sub(_percent_code, name) for name in (model, level, metric))
    return "/".join([_UNSAFE.sub(_percent_code, target).replace("/", "%2F"), *escaped])


def _percent_code(match: re.Match[str]) -> str:
    return quote(match[0], safe="", errors="surrogatepass")


def interval_log(started_epoch_s: float, intervals: Iterable[Interval]) -> str:
    """The complete log, with its intervals sorted by start as readers require (equal starts keep their order).

    started_epoch_s: seconds since 1970, UTC. ValueError as in `header` and `line`.
    """
    lines = [line(interval) for interval in sorted(intervals, key=lambda interval: interval.start_s)]
    return header(started_epoch_s) + "".join(lines)


def header(started_epoch_s: float) -> str:
    """The first lines of a log to which `line` appends. ValueError if the time is negative or not finite."""
    seconds = _seconds(started_epoch_s, "start time")
    moment = datetime.fromtimestamp(started_epoch_s, UTC).isoformat(timespec="milliseconds")
    return (
        "#[Logged with loadgen: values in ns, Interval_Max in ms]\n"
        "#[Histogram log format version 1.3]\n"
        f"#[StartTime: {seconds} (seconds since epoch), {moment}]\n"
        f"#[BaseTime: {seconds} (seconds since epoch)]\n"
        f"{_LEGEND}\n"
    )


def line(interval: Interval) -> str:
    """One interval with its newline. ValueError if a tag or a time would make readers misread the line.

    Times are rounded to microseconds. The maximum is exact; it is 0 if the histogram is empty.
    """
    if _SEPARATORS.search(interval.tag):
        raise ValueError(f"a tag holds no comma, blank or control character: {interval.tag!r}")
    start, length = _seconds(interval.start_s, "start"), _seconds(interval.length_s, "length")
    max_ns = interval.histogram.max_ns or 0
    prefix = f"Tag={interval.tag}," if interval.tag else ""
    # ns to ms in integers: all six digits are right.
    return f"{prefix}{start},{length},{max_ns // 10**6}.{max_ns % 10**6:06d},{interval.histogram.encode()}\n"


def read_interval_log(text: str) -> list[Interval]:
    """The intervals of a log, as `intervals_in` reads them."""
    return list(intervals_in(text.replace("\r\n", "\n").split("\n")))


def intervals_in(lines: Iterable[str]) -> Iterator[Interval]:
    """The intervals of a log, one after another in its order, with unchanged starts; comments and the legend are
    skipped.

    InputError names a line that is not an interval, or whose histogram has another layout than ours.
    """
    for number, row in enumerate(lines, start=1):
        if not row.strip() or row.startswith(("#", '"')):
            continue
        label, _, rest = row.removeprefix("Tag=").partition(",") if row.startswith("Tag=") else ("", "", row)
        fields = rest.split(",")
        if len(fields) != 4 or not all(_NUMBER.fullmatch(field) for field in fields[:3]):
            raise InputError(
                f"line {number} of the histogram log: expected {_INTERVAL_FORMAT}; "
                "write the log again with `loadgen report`"
            )
        try:
            histogram = Histogram.decode(fields[3].strip())
        except InputError as error:
            raise InputError(f"line {number} of the histogram log: {error}") from error
        yield Interval(label, float(fields[0]), float(fields[1]), histogram)


def _seconds(value: float, name: str) -> str:
    # Readers accept only digits and a point. A sign or an exponent would make them skip the line silently.
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"the {name} of an interval log is a finite number of seconds from 0 up, not {value}")
    return f"{value:.6f}"
