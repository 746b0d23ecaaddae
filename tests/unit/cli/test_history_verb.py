"""The verb history: its exit codes, what it prints, writes and removes, and what it does with wrong flags."""

import json
import os
import re
import shutil
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import msgspec
import pytest

from loadgen import api
from loadgen.cli.history import parse_age, parse_since, report_address
from loadgen.decisions.history.read import HistoryRequest
from loadgen.errors import ExitCode, InputError
from loadgen.store.history import read_history
from loadgen.store.prune import old_nights
from loadgen.telemetry.host import host
from tests.command_line import run_command
from tests.night_folders import FIRST, Night, night_id, write_night, write_nights

HERE = Night(machine=host().machine_id)
SLOWER = msgspec.structs.replace(HERE, factors={"ttft_p95": 1.12, "ttft_p50": 1.12}, server="b10719")
NOW = datetime(2026, 11, 14, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("COLUMNS", "100")


def write(*nights: Night | None, name: str = "summarizer") -> Path:
    write_nights(Path("results") / name, nights, noise=0.01)
    return Path("results") / name


def test_the_night_that_shows_a_regression_ends_with_1_and_no_later_one_does() -> None:
    nights = [*[HERE] * 20, *[SLOWER] * 5]
    codes = []
    for number, night in enumerate(nights):
        write_night(Path("results/summarizer"), number, night, noise=0.01)
        if number >= 18:
            codes.append(run_command("history", "summarizer", "--quiet").returncode)
    assert codes == [0, 0, 0, 0, 1, 0, 0]
    result = run_command("history", "summarizer")
    assert (result.returncode, result.stderr) == (ExitCode.DONE, "")
    assert "between builds b10711 and b10719" in re.sub(r"\s+", " ", result.stdout)


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ((), 0),
        (("--since", "2025-12-06"), 1),
        (("--since", "2025-12-07"), 0),
        (("--since", "2025-12-06", "--fail-on", "never"), 0),
        (("--since", "2025-12-06", "--fail-on", "change"), 1),
        (("--since", "2025-12-06", "--matters", "20%"), 0),
        (("--since", "2025-12-06", "--metric", "itl_p50"), 0),
        (("--since", "2025-12-06", "--metric", "itl_p50", "--metric", "metrics.ttft_ms.p50"), 1),
        (("--since", "2025-12-06", "--model", "m", "--level", "c2", "--machine", "all"), 1),
    ],
)
def test_since_and_the_other_flags_say_what_makes_the_exit_code_1(flags: tuple[str, ...], code: int) -> None:
    write(*[HERE] * 20, *[SLOWER] * 5)
    assert run_command("history", "summarizer", "--quiet", *flags).returncode == code


def test_fewer_nights_than_a_change_needs_are_said_and_end_with_0() -> None:
    write(*[HERE] * 5)
    result = run_command("history", "summarizer")
    assert result.returncode == ExitCode.DONE
    assert "5 of 11 nights that a change needs" in result.stdout


def test_json_is_all_that_is_printed_and_twice_the_same() -> None:
    folder = write(*[HERE] * 20, *[SLOWER] * 3)
    (folder / "junk").mkdir()
    first, second = (run_command("history", "summarizer", "--json") for _ in range(2))
    assert first.stdout == second.stdout
    answer = json.loads(first.stdout)
    assert (answer["schema"], answer["scenario"], answer["nights"], answer["verdict"]) == (
        "loadgen.history/1",
        "summarizer",
        23,
        "regression",
    )
    change = answer["changes"][0]
    assert (change["builds"], change["new"], change["gone_on"]) == (["b10711", "b10719"], True, None)
    assert change["shown_by"] == answer["newest"] == night_id(22)
    assert first.returncode == ExitCode.GATE_FAILED
    assert first.stderr.startswith("loadgen: Worse, as the newest night showed: ")


def test_from_python_it_is_the_same_answer() -> None:
    write(*[HERE] * 20, *[SLOWER] * 3)
    answer = api.history("summarizer", request=HistoryRequest(machine="all"))
    assert answer.verdict == "regression"
    assert api.history("summarizer").nights == answer.nights


def test_a_scenario_is_a_folder_its_name_or_a_file_with_that_name(tmp_path: Path) -> None:
    write(*[HERE] * 3)
    Path("nightly.toml").write_text('name = "summarizer"\nprompts = ["Say hello."]\n', "utf-8")
    shutil.copytree("results", "elsewhere")
    for words in (
        ("summarizer",),
        ("results/summarizer",),
        (str(tmp_path / "results" / "summarizer"),),
        ("nightly.toml",),
        ("nightly",),
        ("summarizer", "--out", "elsewhere"),
        ("nightly", "--out", "elsewhere"),
    ):
        result = run_command("history", *words, "--json")
        assert (result.returncode, json.loads(result.stdout)["scenario"]) == (0, "summarizer"), words


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["none"],
            r"none: no runs in results/none, and no such scenario; name a folder in results, or .*",
        ),
        (
            ["played.toml"],
            r"played.toml: no runs in results/other; play it with `loadgen soak played.toml`, or .*",
        ),
        (["empty"], r"results/empty: no night in it \(1 folder passed over: .*\); play one with `loadgen soak` or .*"),
        (["summarizer", "--since", "2999-01-01"], r"--since 2999-01-01: in the future; write a day that is over, .*"),
        (["summarizer", "--since", "30"], r"--since 30: no unit; write e.g. --since 30d, or --since 2026-11-01"),
        (["summarizer", "--since", "soon"], r"--since soon: not a day; write e.g. --since 30d, or .*"),
        (["summarizer", "--since", "0d"], r"--since 0d: not a number of days; .*"),
        (["summarizer", "--metric", "speed"], r"--metric speed: no such metric; there are ttft_p50, .*, server_memory"),
        (
            ["summarizer", "--metric", "ttft_p98"],
            r"--metric ttft_p98: no such metric; .*, requests_per_s.*",
        ),
        (["summarizer", "--metric", "joules_per_token"], r"--metric joules_per_token: no such metric; there are .*"),
        (
            ["summarizer", "--machine", "00000000"],
            r"--machine 00000000: no night of 00000000; there are \w{8} \(a .*",
        ),
        (["summarizer", "--model", "x"], r"--model x: in no night; there are m"),
        (["summarizer", "--level", "c9"], r"--level c9: in no night; there are c2"),
        (["summarizer", "--matters", "much"], r"--matters much: not from 0.01 % to 100 %; .*"),
        (
            ["summarizer", "--html", "none/x.html"],
            r"--html none/x.html: cannot be written \(No such file .*\); .*",
        ),
        (["summarizer", "--prune", "90"], r"--prune 90: no unit; write e.g. --prune 90d"),
        (["summarizer", "--prune", "90m"], r"--prune 90m: no unit that is known: m; write e.g. --prune 90d"),
        (["summarizer", "--prune", "d"], r"--prune d: not a number of days; write e.g. --prune 90d"),
        (["summarizer", "--prune", "90d", "--html", "x"], r"--prune with --html: .*; leave one of them out"),
        (["summarizer", "--yes"], r"--yes: nothing is to be removed; write e.g. --prune 90d --yes"),
    ],
)
def test_wrong_input_is_one_line_and_ends_with_2(words: list[str], line: str) -> None:
    write(HERE)
    Path("results/empty/junk").mkdir(parents=True)
    Path("played.toml").write_text('name = "other"\nprompts = ["Say hello."]\n', "utf-8")
    result = run_command("history", *words)
    assert (result.returncode, result.stdout) == (ExitCode.BAD_INPUT, "")
    assert re.fullmatch(f"loadgen: {line}\n", result.stderr), result.stderr


def test_no_night_of_this_machine_names_the_machines_there_are() -> None:
    write(Night(machine="00000001"), Night(machine=None))
    result = run_command("history", "summarizer")
    assert result.returncode == ExitCode.BAD_INPUT
    assert (
        f"no night of this machine ({host().machine_id}); there are 00000001 (a CPU), unknown (a CPU)" in result.stderr
    )
    assert run_command("history", "summarizer", "--machine", "unknown", "--quiet").returncode == ExitCode.DONE


def test_a_damaged_night_is_named_and_passed_over() -> None:
    folder = write(*[HERE] * 3)
    (folder / night_id(1) / "summary.json").write_bytes(b"{")
    result = run_command("history", "summarizer")
    assert result.returncode == ExitCode.DONE
    assert f"· {night_id(1)}: passed over, summary.json is damaged" in result.stdout
    assert "2 nights" in result.stdout


class Page(HTMLParser):
    """The links of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("href", "src") and value]


def test_the_page_has_every_metric_and_leads_to_the_reports_of_the_nights() -> None:
    folder = write(*[HERE] * 20, *[SLOWER] * 3)
    for number in (0, 1):
        (folder / night_id(number) / ("report.html", "report.md")[number]).write_text("x", "utf-8")
    Path("pages").mkdir()
    result = run_command("history", "summarizer", "--html", "pages/nights 1.html")
    assert result.stdout.endswith("page: pages/nights 1.html\n")
    text = Path("pages/nights 1.html").read_text("utf-8")
    page = Page(text)
    assert sorted(page.links) == [
        f"../results/summarizer/{night_id(0)}/report.html",
        f"../results/summarizer/{night_id(1)}/report.md",
    ]
    assert all((Path("pages") / unquote(link)).is_file() for link in page.links)
    assert text.count('class="chart"') == 8
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    run_command("history", "summarizer", "--html", "pages/again.html")
    assert Path("pages/again.html").read_bytes() == Path("pages/nights 1.html").read_bytes()


def test_names_cannot_become_markup() -> None:
    evil = "<img src=x onerror=alert(1)>"
    folder = write(*[msgspec.structs.replace(HERE, models=(evil,), label=f"</script>{evil}", target="'\"><b>")] * 3)
    (folder / "<b>junk").mkdir()
    shutil.copytree(folder / night_id(0), folder / evil)
    (folder / evil / "summary.json").write_bytes(b"<b>")
    run_command("history", "summarizer", "--html", "page.html")
    page = Page(Path("page.html").read_text("utf-8"))
    assert {"img", "b"}.isdisjoint(page.tags)


def test_the_address_of_a_report_is_quoted(tmp_path: Path) -> None:
    night = tmp_path / 'a "night" #1?'
    night.mkdir()
    assert report_address(night, tmp_path) == ""
    (night / "report.html").write_text("x", "utf-8")
    assert report_address(night, tmp_path) == "a%20%22night%22%20%231%3F/report.html"


FILES = {
    "requests.jsonl": True,
    "requests-00001.jsonl.gz": True,
    "requests-00002.jsonl": True,
    "requests.w1.jsonl": True,
    "telemetry.jsonl": True,
    "report.html": True,
    "prompts.jsonl": False,
    "stages.jsonl": False,
    "windows.jsonl": False,
    "events.jsonl": False,
    "histograms.hlog": False,
    "report.md": False,
    "summary.csv": False,
    "notes.jsonl": False,
    "requests.txt": False,
}
"""The files of a run folder, and whether pruning removes them."""


def write_old(*nights: Night) -> Path:
    """Nights with all their files; the newest began 10 days before now, one a day."""
    age = datetime.now(UTC) - FIRST - timedelta(days=len(nights) + 9)
    folder = write(*(msgspec.structs.replace(night, at=age) for night in nights))
    for place in folder.iterdir():
        for name in FILES:
            (place / name).write_bytes(b"x" * 2048)
    return folder


def test_pruning_first_names_then_removes_and_a_pruned_night_stays() -> None:
    folder = write_old(*[HERE] * 4)
    places = sorted(folder.iterdir())
    before = run_command("history", "summarizer", "--json").stdout
    named = run_command("history", "summarizer", "--prune", "12d")
    assert named.returncode == ExitCode.DONE
    assert [place.name in named.stdout for place in places] == [True, True, False, False]
    assert "These files would go: 2 nights, 24 KiB;" in named.stdout
    assert all((place / name).exists() for place in places for name in FILES)
    removed = run_command("history", "summarizer", "--prune", "12d", "--yes")
    assert "Removed: 2 nights, 24 KiB;" in removed.stdout
    for place, is_old in zip(places, (True, True, False, False), strict=True):
        assert {name for name in FILES if not (place / name).exists()} == {n for n in FILES if FILES[n] and is_old}
    assert run_command("history", "summarizer", "--json").stdout == before
    nothing = run_command("history", "summarizer", "--prune", "12d")
    assert nothing.stdout == "No night is older than 12d and has records, telemetry or pages.\n"


def test_pruning_as_json_says_what_would_go_or_went() -> None:
    write_old(HERE)
    named, removed = (run_command("history", "summarizer", "--prune", "1w", "--json", *f) for f in ((), ("--yes",)))
    before, after = json.loads(named.stdout), json.loads(removed.stdout)
    assert (before["removed"], after["removed"]) == (False, True)
    assert before["nights"] == after["nights"]
    assert set(before["nights"][0]["files"]) == {name for name, goes in FILES.items() if goes}
    assert before["bytes"] == 6 * 2048


def test_a_run_that_is_being_played_a_link_and_a_strange_folder_are_left_alone(tmp_path: Path) -> None:
    folder = write_old(msgspec.structs.replace(HERE, state="running"), HERE)
    (tmp_path / "precious.html").write_text("x", "utf-8")
    finished = sorted(folder.iterdir())[1]
    if os.name == "posix":
        (finished / "page.html").symlink_to(tmp_path / "precious.html")
    (folder / "mine").mkdir()
    (folder / "mine" / "requests.jsonl").write_text("x", "utf-8")
    (folder / "broken").mkdir()
    (folder / "broken" / "manifest.json").write_text("{", "utf-8")
    (folder / "broken" / "requests.jsonl").write_text("x", "utf-8")
    assert [night.folder for night in old_nights(folder, datetime.now(UTC) - timedelta(days=1))] == [finished]
    run_command("history", "summarizer", "--prune", "1d", "--yes")
    assert (tmp_path / "precious.html").exists()
    assert sorted(path.parent.name for path in folder.glob("*/requests.jsonl")) == sorted(
        ["broken", "mine", sorted(folder.iterdir())[0].name]
    )


def test_a_run_that_was_killed_is_over_when_nothing_was_written_for_as_long_as_is_asked() -> None:
    folder = write_old(msgspec.structs.replace(HERE, state="running"))
    (killed,) = folder.iterdir()
    now = datetime.now(UTC)

    def set_written(days_ago: float, *paths: Path) -> None:
        moment = (now - timedelta(days=days_ago)).timestamp()
        for path in paths:
            os.utime(path, (moment, moment))

    set_written(9, *killed.iterdir(), killed)
    assert [night.folder for night in old_nights(folder, now - timedelta(days=8))] == [killed]
    assert old_nights(folder, now - timedelta(days=10)) == []
    set_written(7, killed / "windows.jsonl")
    assert old_nights(folder, now - timedelta(days=8)) == []


@pytest.mark.skipif(os.name != "posix", reason="a link needs a right of its own on Windows")
def test_a_night_behind_a_link_is_read_but_nothing_of_it_is_removed(tmp_path: Path) -> None:
    folder = write_old(HERE, HERE)
    linked, own = sorted(folder.iterdir())
    linked.rename(tmp_path / "archive")
    linked.symlink_to(tmp_path / "archive")
    (tmp_path / "way").symlink_to(folder.absolute())
    for way in (folder, tmp_path / "way"):  # a link to the folder itself is the user's own choice
        assert [night.folder.name for night in old_nights(way, datetime.now(UTC))] == [own.name]
    assert len(read_history(folder).nights) == 2


def test_a_file_that_cannot_be_removed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    write_old(HERE)

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    result = run_command("history", "summarizer", "--prune", "1d", "--yes")
    assert result.returncode == ExitCode.BAD_INPUT
    assert result.stderr.count("not removed (Permission denied)") == 6
    assert result.stdout == "Removed: nothing.\n"


def test_only_what_is_gone_is_called_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_old(HERE, HERE)
    first, second = sorted(folder.iterdir())
    unlink = Path.unlink

    def refuse(self: Path, missing_ok: bool = False) -> None:
        if self.parent.name == first.name or self.name == "requests.jsonl":
            raise PermissionError(13, "Permission denied")
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    result = run_command("history", "summarizer", "--prune", "1d", "--yes")
    assert result.returncode == ExitCode.BAD_INPUT
    assert first.name not in result.stdout
    assert "requests.jsonl," not in result.stdout
    assert second.name in result.stdout
    assert "Removed: 1 night, 10 KiB;" in result.stdout
    again = json.loads(run_command("history", "summarizer", "--prune", "1d", "--yes", "--json").stdout)
    assert (again["nights"], again["bytes"]) == ([], 0)


def test_an_age_and_a_day_are_moments() -> None:
    assert parse_age("90d", "--prune", "") == timedelta(days=90)
    assert parse_age("2w", "--prune", "") == timedelta(days=14)
    assert parse_since("30d", NOW) == NOW - timedelta(days=30)
    assert parse_since("2026-11-14", NOW).astimezone().date().isoformat() == "2026-11-14"
    with pytest.raises(InputError, match="in the future"):
        parse_since("2026-11-15", NOW)
    with pytest.raises(InputError, match="not a number of days"):
        parse_age("9999999d", "--prune", "")


@pytest.mark.parametrize("text", ["0001-01-01", "0001-01-01T00:00+14:00", "1500-01-01", "1969-12-31"])
def test_all_nights_are_since_a_day_before_all_clocks_or_it_is_no_day(text: str) -> None:
    try:
        assert parse_since(text, NOW) == datetime(1971, 1, 1, tzinfo=UTC)
    except InputError as error:
        assert "not a day" in str(error)


@pytest.mark.parametrize("text", ["20001d", "3000w", "999999w"])
def test_an_age_beyond_all_clocks_is_no_age(text: str) -> None:
    with pytest.raises(InputError, match=r"more than 20,000 days; e\.g\. 90d"):
        parse_age(text, "--prune", "e.g. 90d")
