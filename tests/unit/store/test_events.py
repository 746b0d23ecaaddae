"""The log of a soak's events: written at once, whatever the disk does, and read back without what was torn."""

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loadgen.clock import Clock
from loadgen.errors import InputError
from loadgen.store import events as store_events
from loadgen.store.events import EVENT_KINDS, EVENTS, MOST_UNWRITTEN, Event, EventLog, read_events

EPOCH_NS = 5_000_000_000


class FixedClock:
    def __init__(self, now_ns: int) -> None:
        self.at_ns = now_ns

    def now_ns(self) -> int:
        return self.at_ns

    async def sleep_until_ns(self, deadline_ns: int) -> None:
        raise NotImplementedError


def log_in(folder: Path, clock: Clock | None = None, **options: Any) -> EventLog:
    wall = datetime(2026, 11, 30, 2, 0, 10, tzinfo=UTC)
    return EventLog(folder, clock or FixedClock(EPOCH_NS + 60_000_000_000), EPOCH_NS, wall=lambda: wall, **options)


def event_of(detail: str) -> Event:
    return Event("server_gone", 1, "2026-11-30T02:00:00.000+00:00", None, detail, "m")


def test_an_event_is_on_disk_at_once_with_its_moment_on_both_clocks(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    log.record("server_gone", "connection refused", at_ns=EPOCH_NS + 50_000_000_000, model="m")
    log.record("clock_stepped", "by 3 s")
    assert [json.loads(line) for line in (tmp_path / EVENTS).read_text().splitlines()] == [
        {
            "kind": "server_gone",
            "at_ns": 50_000_000_000,
            "at_utc": "2026-11-30T02:00:00.000+00:00",
            "for_s": None,
            "detail": "connection refused",
            "model": "m",
        },
        {
            "kind": "clock_stepped",
            "at_ns": 60_000_000_000,
            "at_utc": "2026-11-30T02:00:10.000+00:00",
            "for_s": None,
            "detail": "by 3 s",
            "model": None,
        },
    ]


def test_an_event_is_a_line_for_somebody_who_watches() -> None:
    assert event_of("Connection refused").line == "m: server gone: Connection refused"
    assert Event("suspended", 1, "", 3.0, "the machine was suspended for 3 s").line == (
        "suspended: the machine was suspended for 3 s"
    )


def test_events_are_read_back_in_order_and_every_kind_is_known(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    for kind in EVENT_KINDS:
        log.record(kind, kind)
    assert [event.kind for event in read_events(tmp_path)] == list(EVENT_KINDS)
    assert len(set(EVENT_KINDS)) == 13


def test_a_run_without_the_log_has_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path) == ()


def test_torn_lines_and_kinds_of_later_versions_are_left_out(tmp_path: Path) -> None:
    log_in(tmp_path).add(event_of("first"))
    with (tmp_path / EVENTS).open("ab") as file:
        file.write(b'{"kind": "eclipse", "at_ns": 1, "at_utc": ""}\n\xff\n{"kind": "server_ba')
    log_in(tmp_path).add(event_of("second"))  # after a kill and a resume, in the same file
    assert [event.detail for event in read_events(tmp_path)] == ["first", "second"]


def test_a_log_that_was_renamed_or_removed_is_opened_anew(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    log.add(event_of("first"))
    (tmp_path / EVENTS).rename(tmp_path / "old.jsonl")
    log.add(event_of("second"))
    assert [event.detail for event in read_events(tmp_path)] == ["second"]


def test_a_full_disk_raises_nothing_and_the_events_are_written_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = log_in(tmp_path)
    log.add(event_of("first"))
    with monkeypatch.context() as full:

        def write_a_part(path: Path, line: bytes) -> None:
            with path.open("ab") as file:
                file.write(line[:9])
            raise OSError(28, "No space left on device")

        full.setattr(store_events, "_append", write_a_part)
        for number in range(MOST_UNWRITTEN + 5):
            log.add(event_of(f"full {number}"))
        assert log.write_rest() == MOST_UNWRITTEN
    log.add(event_of("last"))
    details = [event.detail for event in read_events(tmp_path)]
    assert details[0] == "first"
    assert details[-2:] == [f"full {MOST_UNWRITTEN + 4}", "last"]
    assert len(details) == MOST_UNWRITTEN + 1  # the oldest of those that waited made room
    assert log.write_rest() == 0


def test_a_folder_that_is_gone_raises_nothing(tmp_path: Path) -> None:
    log = log_in(tmp_path / "gone")
    log.add(event_of("first"))
    assert log.write_rest() == 1


def test_a_log_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / EVENTS).mkdir()
    with pytest.raises(InputError, match=r"events\.jsonl: cannot be read \(.+\); fix that, or name another run$"):
        read_events(tmp_path)


def test_an_api_key_in_the_last_words_of_a_server_never_reaches_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOADGEN_API_KEY", "sk-test-0123456789abcdef")
    log_in(tmp_path).add(event_of("it died: bad key sk-test-0123456789abcdef"))
    assert read_events(tmp_path)[0].detail == "it died: bad key ***"


def test_whoever_listens_gets_each_event(tmp_path: Path) -> None:
    heard = SimpleNamespace(kinds=[])
    log = log_in(tmp_path, on_event=lambda event: heard.kinds.append(event.kind))
    log.record("disk_low", "")
    assert heard.kinds == ["disk_low"]
