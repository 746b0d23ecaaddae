"""The verb `history`: what changed over the nights of a scenario, since when, between which builds. Plays nothing."""

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import quote

import msgspec
import typer

from loadgen.cli.compare import parse_percent
from loadgen.cli.options import RESULTS, Out, Output, OutputOptions, expand_options
from loadgen.cli.streams import print_text, tell
from loadgen.cli.terminal import screen, show_json
from loadgen.clock import utc_now
from loadgen.decisions.history.document import history_document
from loadgen.decisions.history.history_json import history_json
from loadgen.decisions.history.read import HERE, HistoryRequest, ReadHistory, read_answer, scenario_folder
from loadgen.decisions.history.table import history_text
from loadgen.decisions.history.verdict import FailOn
from loadgen.decisions.history.words import verdict_sentence
from loadgen.errors import ExitCode, InputError
from loadgen.report.console import lines_text
from loadgen.report.format import format_bytes, format_count
from loadgen.report.html import html
from loadgen.store import files
from loadgen.store.history import NightRecord
from loadgen.store.prune import OldNight, old_nights, remove

_UNITS: Final = {"d": 1, "w": 7}
_MOST_DAYS: Final = 20_000
_FIRST_DAY: Final = datetime(1971, 1, 1, tzinfo=UTC)
"""No run is older, and not every system knows its own time zone before 1970."""
_EXAMPLE: Final = "write e.g. --prune 90d"
PruneAction = Literal["name", "remove"]


class HistoryOptions(msgspec.Struct, frozen=True):
    """What is asked of the nights. A flag is one field here and one line in `request`."""

    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="30d|DATE", help="Fail for what was shown on or after this (default: the newest night)."
        ),
    ] = None
    model: Annotated[str | None, typer.Option("--model", metavar="M", help="Only this model.")] = None
    level: Annotated[str | None, typer.Option("--level", metavar="L", help="Only this level, e.g. c2.")] = None
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME", help="Only this, e.g. ttft_p99. Repeatable (default: eight)."),
    ] = None
    machine: Annotated[
        str, typer.Option("--machine", metavar="here|all|ID", help="Series of this machine, of each, or of one.")
    ] = HERE
    matters: Annotated[
        str, typer.Option("--matters", metavar="P%", help="Smaller changes are not shown (failed_share: 0.5 points).")
    ] = "3%"

    def request(self, now: datetime) -> HistoryRequest:
        """What the flags ask. Raises InputError, which names the flag, for a value that cannot be read."""
        return HistoryRequest(
            metrics=tuple(self.metric or ()),
            machine=self.machine,
            model=self.model,
            level=self.level,
            matters=parse_percent(self.matters, "--matters"),
            since=None if self.since is None else parse_since(self.since, now),
        )


def parse_since(text: str, now: datetime) -> datetime:
    """The moment of `30d`, `4w` or `2026-11-01` (midnight, where this program runs). Raises InputError."""
    if re.fullmatch(r"[0-9]+[a-z]*", text.strip()):
        return now - parse_age(text, "--since", "write e.g. --since 30d, or --since 2026-11-01")
    try:
        day = datetime.fromisoformat(text.strip())
        moment = day.astimezone(UTC)
    except (ValueError, OverflowError, OSError):  # also a day that is none in UTC, or before any clock
        raise InputError(f"--since {text}: not a day; write e.g. --since 30d, or --since 2026-11-01") from None
    if moment > now:
        raise InputError(f"--since {text}: in the future; write a day that is over, or e.g. --since 30d")
    return max(moment, _FIRST_DAY)


def parse_age(text: str, flag: str, example: str) -> timedelta:
    """The time of `90d` or `12w`. Raises InputError that names the flag."""
    match = re.fullmatch(r"([0-9]{1,6})([a-z]*)", text.strip())
    if match is None or not int(match[1]):
        raise InputError(f"{flag} {text}: not a number of days; {example}")
    if match[2] not in _UNITS:
        unit = "no unit" if not match[2] else f"no unit that is known: {match[2]}"
        raise InputError(f"{flag} {text}: {unit}; {example}")
    days = int(match[1]) * _UNITS[match[2]]
    if days > _MOST_DAYS:
        raise InputError(f"{flag} {text}: more than {_MOST_DAYS:,} days; {example}")
    return timedelta(days=days)


@expand_options
def history(
    *,
    scenario: Annotated[
        str, typer.Argument(metavar="SCENARIO", help="A scenario, or the name of its folder under --out.")
    ],
    options: HistoryOptions,
    fail_on: Annotated[
        FailOn,
        typer.Option("--fail-on", metavar="WORD", help="Exit 1 for: regression (default), change, never."),
    ] = "regression",
    page: Annotated[
        Path | None, typer.Option("--html", metavar="PATH", help="Write a page with all charts; it needs no network.")
    ] = None,
    prune: Annotated[
        str | None,
        typer.Option("--prune", metavar="90d", help="Name the records and pages of nights older than this."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="With --prune: remove them.")] = False,
    out: Out = RESULTS,
    printing: OutputOptions,
) -> None:
    """Say what changed over the nights of a scenario, since when, and between which builds.

    It plays nothing. The exit code is 1 if the newest night was the first to show a regression that still stands.
    """
    now = utc_now()
    if prune is not None:
        if page is not None:
            raise InputError("--prune with --html: the one removes pages, the other writes one; leave one of them out")
        raise typer.Exit(
            _prune(scenario_folder(scenario, out), prune, now, printing.output, "remove" if yes else "name")
        )
    if yes:
        raise InputError(f"--yes: nothing is to be removed; {_EXAMPLE} --yes")
    read = read_answer(scenario, options.request(now), out)
    if page is not None:
        _write_page(page, read)
    _print(read, printing.output)
    if page is not None and printing.output == "text":
        print_text(f"page: {page}\n")
    raise typer.Exit(ExitCode.GATE_FAILED if read.answer.fails(fail_on) else ExitCode.DONE)


def _print(read: ReadHistory, output: Output) -> None:
    match output:
        case "json":
            show_json(msgspec.to_builtins(history_json(read.answer)))
        case "text":
            print_text(history_text(read.answer, read.remarks, screen()))
        case "nothing":
            pass
    if output != "text" and read.answer.verdict == "regression":
        tell(f"loadgen: {verdict_sentence(read.answer)}")


def _write_page(path: Path, read: ReadHistory) -> None:
    place = path.absolute().parent

    def report_of(night: NightRecord) -> str:
        return report_address(night.folder, place)

    try:
        files.write_to(path, html(history_document(read.answer, read.remarks, report_of)))
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"--html {path}: cannot be written ({reason}); choose a file you may write") from error


def report_address(folder: Path, place: Path) -> str:
    """The address of a night's report, relative to the folder of a page; empty if it has none."""
    for name in ("report.html", "report.md"):
        file = folder.absolute() / name
        if file.is_file():
            try:
                return quote(Path(os.path.relpath(file, place)).as_posix())
            except ValueError:  # on another drive
                return file.as_uri()
    return ""


def _prune(folder: Path, age: str, now: datetime, output: Output, action: PruneAction) -> ExitCode:
    """Name the files of old nights that may go, and remove them if that is asked for."""
    nights = old_nights(folder, now - parse_age(age, "--prune", _EXAMPLE))
    pruned, problems = remove(nights) if action == "remove" else (nights, [])
    if output == "json":
        show_json(
            {
                "schema": "loadgen.prune/1",
                "nights": [
                    {
                        "night": night.folder.name,
                        "files": [file.path.name for file in night.files],
                        "bytes": night.size_bytes,
                    }
                    for night in pruned
                ],
                "bytes": sum(night.size_bytes for night in pruned),
                "removed": action == "remove",
            }
        )
    if output == "text":
        lines = _prune_lines(pruned, action) if nights else [_nothing_older(age)]
        print_text(lines_text(lines, screen()))
    for problem in problems:
        tell(f"loadgen: {problem}")
    return ExitCode.BAD_INPUT if problems else ExitCode.DONE


def _size(count: int) -> str:
    return format_bytes(count) if count >= 1 << 20 else f"{count / 1024:.0f} KiB"


def _nothing_older(age: str) -> str:
    return f"No night is older than {age} and has records, telemetry or pages."


def _prune_lines(nights: list[OldNight], action: PruneAction) -> list[str]:
    """The nights whose files would go, or are gone: then none if no file could be removed."""
    lines = [
        f"{night.folder.name}: {', '.join(file.path.name for file in night.files)} ({_size(night.size_bytes)})"
        for night in nights
    ]
    total = f"{format_count(len(nights), 'night')}, {_size(sum(night.size_bytes for night in nights))}"
    stay = "manifests, summaries, windows, events and histograms stay"
    if not nights:
        return ["Removed: nothing."]
    if action == "remove":
        return [*lines, f"Removed: {total}; {stay}."]
    return [*lines, f"These files would go: {total}; {stay}. Remove them with --yes."]
