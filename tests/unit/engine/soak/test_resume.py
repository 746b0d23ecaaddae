"""A soak that is killed at any moment goes on: no request is lost or counted twice. In virtual time.

What a killed process leaves is what was on disk at that moment, so a copy of the run folder stands for it.
"""

import itertools
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen import api
from loadgen.engine import stage as stage_module
from loadgen.engine.soak import play as play_module
from loadgen.engine.soak import session as session_module
from loadgen.engine.soak.in_flight import FILES
from loadgen.engine.soak.lock import LOCK, Holder
from loadgen.engine.soak.play import play_soak
from loadgen.engine.soak.resume import LOST, unfinished_at
from loadgen.engine.soak.segments import OpenFile
from loadgen.engine.stop import StopSignal
from loadgen.errors import InputError
from loadgen.plan.soak import soak_of
from loadgen.record import Record
from loadgen.scenario import Closed, Constant, Load, Model, PromptFiles, Retries, Scenario, SoakTable
from loadgen.scenario.file import LoadedScenario
from loadgen.store import files, run_folder
from loadgen.store.events import read_events
from loadgen.store.run_folder import Log, Run, read, read_manifest
from loadgen.store.windows import read_windows
from tests.soak_log import compress_in_process
from tests.unit.engine.soak.test_play import look_rarely, virtual_machine
from tests.virtual import START_NS, run
from tests.virtual_client import CLOCK, MS, Answer, ScriptedClient, refuse, stream

pytestmark = pytest.mark.slow  # minutes of virtual time

SECOND = 1_000 * MS
DURATION_S = 40.0
CRASHED_FOR_S = 5.0


class Wall:
    """The wall clock of virtual time. It goes on while nothing is played."""

    def __init__(self) -> None:
        self.before_s = 0.0
        """How long was played and not played before this process."""

    def now(self) -> datetime:
        seconds = self.before_s + (CLOCK.now_ns() - START_NS) / 1e9
        return datetime(2026, 11, 30, tzinfo=UTC) + timedelta(seconds=seconds)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    wall = Wall()
    monkeypatch.setattr(play_module, "utc_now", wall.now)
    monkeypatch.setattr(session_module, "utc_now", wall.now)
    look_rarely(monkeypatch)
    compress_in_process(monkeypatch)
    # Windows of a second are on disk by the time the process dies.
    monkeypatch.setattr(stage_module, "TICK_S", 2.0)
    return wall


class Death:
    """A copy of a run folder as it was at one moment."""

    def __init__(self, folder: Path, at_s: float, chats: int) -> None:
        self.folder = folder
        self.at_s = at_s
        self.chats = chats
        """How many chats the server had been asked."""
        self.windows = len(read_windows(folder))
        """How many windows were on disk, before anyone goes on."""

    @property
    def finals(self) -> dict[tuple[str, int], Record]:
        return finals_of(read(self.folder))


def finals_of(played: Run) -> dict[tuple[str, int], Record]:
    """The last attempt of each measured request. A request has one of each number."""
    attempts = Counter((r.model, r.index, r.attempt) for r in played.records if r.phase == "measured")
    assert set(attempts.values()) <= {1}
    return {(r.model, r.index): r for r in sorted(played.records, key=lambda r: r.attempt) if r.phase == "measured"}


def night(load: Load, duration_s: float = DURATION_S, **changes: Any) -> LoadedScenario:
    scenario = Scenario(
        name="night",
        prompts=("One.", "Two."),
        models=(Model(name="m", url="http://m.invalid/v1", target="openai"),),
        load=load,
        soak=SoakTable(duration_s=duration_s, window_s=1.0),
        **changes,
    )
    return LoadedScenario(scenario, None, Path(), "the test")


def answer(_: dict[str, Any], number: int) -> Answer:
    return stream("One", " two", gap_ns=(250 + 70 * (number % 5)) * MS + 1)  # no moment is a whole number of µs


def play_and_die(
    loaded: LoadedScenario,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    moments: set[int],
    *,
    script: Callable[[dict[str, Any], int], Answer] = answer,
    stop: StopSignal | None = None,
) -> tuple[Run, list[Death]]:
    """Play a soak to its end, and copy its folder after some of the writes, by their numbers."""
    client, deaths, writes = ScriptedClient(script), list[Death](), [0]

    def writing(write: Callable[..., None]) -> Callable[..., None]:
        def write_and_maybe_die(*values: Any, **options: Any) -> None:
            write(*values, **options)
            writes[0] += 1
            if writes[0] in moments:
                (played,) = (folder / "played" / "night").iterdir()
                copy = Path(shutil.copytree(played, folder / f"death-{writes[0]}" / "night" / played.name))
                deaths.append(Death(copy, (CLOCK.now_ns() - START_NS) / 1e9, len(client.requests)))

        return write_and_maybe_die

    planned = soak_of(loaded)
    with monkeypatch.context() as patch:
        patch.setattr(Log, "write", writing(Log.write))
        patch.setattr(OpenFile, "append", writing(OpenFile.append))
        patch.setattr(files, "write_json", writing(files.write_json))
        plan = api.soak_plan_of(planned)
        played = run(
            play_soak(plan, planned.settings, folder / "played", machine=virtual_machine(), client=client, stop=stop)
        )
    return read(played), deaths


def resume(folder: Path, script: Callable[[dict[str, Any], int], Answer] = answer) -> tuple[Run, ScriptedClient]:
    """Go on with a soak of which nobody is alive."""
    (folder / LOCK).write_bytes(msgspec.json.encode(Holder(1 << 22, 1.0)))
    unfinished, planned, plan = api.soak_to_resume(folder)
    client = ScriptedClient(script)
    going_on = play_soak(
        plan, planned.settings, folder, unfinished=unfinished, machine=virtual_machine(), client=client
    )
    assert run(going_on) == folder
    return read(folder), client


CLOSED = Closed(concurrency=(3,), ramp_in_s=0.0)
OPEN = Constant(rates_per_s=(2.0,))


@pytest.mark.parametrize("load", [CLOSED, OPEN], ids=["closed", "open"])
def test_a_soak_that_is_killed_at_any_of_twenty_moments_loses_nothing_and_counts_nothing_twice(
    tmp_path: Path, wall: Wall, monkeypatch: pytest.MonkeyPatch, load: Load
) -> None:
    loaded = night(load, duration_s=24.0)
    _, deaths = play_and_die(loaded, tmp_path, monkeypatch, {*range(2, 9), *range(30, 37), *range(82, 88)})
    assert len(deaths) == 20
    assert deaths[0].windows == 0 < deaths[-1].windows
    for death in deaths:
        before = death.finals
        wall.before_s = death.at_s + CRASHED_FOR_S
        played, client = resume(death.folder)
        after = finals_of(played)
        assert played.manifest.state == "complete"
        assert played.manifest.soak is not None and played.manifest.soak.resumed == 1
        assert {key: record for key, record in after.items() if key in before} == before
        lost = [record for record in after.values() if record.detail == LOST]
        # Every chat that the server was asked has its record: each process asks a test chat and one of the warm-up. The
        # request that was about to be sent has one too.
        assert len(before) + len(lost) - max(0, death.chats - 2) in (0, 1)
        assert len(after) == len(before) + len(lost) + len(client.requests) - 2
        assert sorted(index for _, index in after) == list(range(len(after)))
        assert {record.outcome for record in lost} <= {"cancelled"}
        assert Counter(record.outcome for record in after.values()) == {
            "ok": len(after) - len(lost),
            **({"cancelled": len(lost)} if lost else {}),
        }
        assert not list(death.folder.glob(FILES)) and not (death.folder / LOCK).exists()
        windows = read_windows(death.folder)
        assert [window.window for window in windows] == list(range(len(windows)))
        assert all(second.start_ns >= first.end_ns for first, second in itertools.pairwise(windows))
        # The process died long before the deadline, and a window of its time ends with the last that is known of it.
        assert not any(window.draining for window in windows if window.start_ns <= death.at_s * SECOND)
        assert not any(death.at_s < window.end_ns / SECOND - 0.001 <= wall.before_s for window in windows)
        in_windows = Counter[str]()
        for window in windows:
            in_windows.update(window.by_outcome)
        assert in_windows == Counter(record.outcome for record in after.values())
        wall.before_s = 0.0


def test_a_soak_that_is_killed_again_while_it_goes_on_goes_on_again(
    tmp_path: Path, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (death,) = play_and_die(night(CLOSED), tmp_path, monkeypatch, {150})
    before = death.finals
    wall.before_s = death.at_s + CRASHED_FOR_S
    again: list[Path] = []

    def copied_later(body: dict[str, Any], number: int) -> Answer:
        if number == 20:
            again.append(Path(shutil.copytree(death.folder, tmp_path / "again" / death.folder.name)))
        return answer(body, number)

    resume(death.folder, copied_later)
    wall.before_s += 10.0
    played, _ = resume(again[0])
    after = finals_of(played)
    assert played.manifest.soak is not None and played.manifest.soak.resumed == 2
    assert {key: record for key, record in after.items() if key in before} == before
    assert sorted(index for _, index in after) == list(range(len(after)))
    assert [event.kind for event in read_events(again[0])] == ["resumed", "resumed"]
    assert sum(record.detail == LOST for record in after.values()) in (5, 6)


def test_moments_go_on_counting_from_the_beginning_and_the_event_says_how_long_nothing_was_played(
    tmp_path: Path, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (death,) = play_and_die(night(CLOSED), tmp_path, monkeypatch, {150})
    wall.before_s = death.at_s + CRASHED_FOR_S
    played, _ = resume(death.folder)
    (event,) = read_events(death.folder)
    started_s = death.at_s + CRASHED_FOR_S
    later = [r for r in played.records if r.intended_ns > (started_s - 1) * SECOND]
    assert event.for_s == pytest.approx(CRASHED_FOR_S, abs=0.5)
    assert event.at_ns / 1e9 == pytest.approx(death.at_s, abs=0.5)
    assert min(r.intended_ns for r in later) / 1e9 == pytest.approx(started_s, abs=0.5)
    # The deadline stays: what was lost is not made up for.
    start_ns = min(r.intended_ns for r in played.records if r.phase == "measured")
    assert max(r.intended_ns for r in later) - start_ns <= (DURATION_S + 0.1) * SECOND
    assert played.manifest.plan_digest == read_manifest(tmp_path / "played" / "night" / death.folder.name).plan_digest


def test_after_the_deadline_nothing_is_played_and_the_lost_requests_have_their_records(
    tmp_path: Path, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (death,) = play_and_die(night(CLOSED), tmp_path, monkeypatch, {150})
    before = death.finals
    wall.before_s = DURATION_S + 1_000
    played, client = resume(death.folder)
    after = finals_of(played)
    assert client.requests == []
    assert played.manifest.state == "complete"
    assert len(after) - len(before) == sum(record.detail == LOST for record in after.values())
    assert len(after) - len(before) in (2, 3)


def test_a_request_between_two_attempts_is_lost_as_one(
    tmp_path: Path, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(body: dict[str, Any], number: int) -> Answer:
        # Not 503, after which all users would wait until the server is there again.
        return refuse(429, b"busy") if number % 4 == 3 else answer(body, number)

    loaded = night(CLOSED, duration_s=30.0, retries=Retries(attempts=2, backoff_s=2.0, jitter=0.0))
    _, deaths = play_and_die(loaded, tmp_path, monkeypatch, {20, 40, 60, 80}, script=refusing)
    played_before = [len(finals_of(run_folder.read(death.folder))) for death in deaths]
    assert played_before == sorted({*played_before}), "each death is later in the soak"
    for death in deaths:
        wall.before_s = death.at_s + CRASHED_FOR_S
        played, _ = resume(death.folder)
        after = finals_of(played)
        assert sorted(index for _, index in after) == list(range(len(after)))
        assert sum(record.detail == LOST for record in after.values()) in (1, 2, 3)
        wall.before_s = 0.0


def test_a_soak_that_was_stopped_goes_on_at_its_next_request(
    tmp_path: Path, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = StopSignal()

    def stopping(body: dict[str, Any], number: int) -> Answer:
        if number == 40:
            stop.drain()
        return answer(body, number)

    stopped, _ = play_and_die(night(OPEN), tmp_path, monkeypatch, set(), script=stopping, stop=stop)
    before = finals_of(stopped)
    wall.before_s = 30.0
    played, _ = resume(stopped.folder)
    after = finals_of(played)
    assert (stopped.manifest.state, played.manifest.state) == ("interrupted", "complete")
    assert {key: record for key, record in after.items() if key in before} == before
    assert sorted(index for _, index in after) == list(range(len(after)))
    assert {record.outcome for record in after.values()} == {"ok"}


def test_of_models_that_play_one_after_another_the_one_that_played_goes_on_and_those_before_do_not(
    tmp_path: Path, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tuple(Model(name=name, url=f"http://{name}.invalid/v1", target="openai") for name in ("a", "b", "c"))
    loaded = night(CLOSED, duration_s=100.0)
    loaded = msgspec.structs.replace(loaded, scenario=msgspec.structs.replace(loaded.scenario, models=models))
    _, (death,) = play_and_die(loaded, tmp_path, monkeypatch, {550})
    before = Counter(model for model, _ in death.finals)
    assert set(before) == {"a", "b"}
    wall.before_s = death.at_s + 2.0
    played, client = resume(death.folder)
    after = Counter(model for model, _ in finals_of(played))
    assert (after["a"], after["b"] > before["b"], after["c"] > 50) == (before["a"], True, True)
    assert {msgspec.json.decode(request.body)["model"] for request in client.requests} == {"b", "c"}
    assert played.manifest.soak is not None
    assert [stage.models for stage in played.manifest.soak.stages] == [("a",), ("b",), ("b",), ("c",)]


def test_what_cannot_be_resumed_is_one_line(tmp_path: Path, wall: Wall, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = tmp_path / "prompts.txt"
    prompt.write_text("Say hello.", encoding="utf-8")
    loaded = night(CLOSED)
    scenario = msgspec.structs.replace(loaded.scenario, prompts=PromptFiles(files=str(prompt)))
    played, (death,) = play_and_die(msgspec.structs.replace(loaded, scenario=scenario), tmp_path, monkeypatch, {40})
    with pytest.raises(InputError, match=r"this soak is complete; `loadgen report .*` makes its reports again$"):
        unfinished_at(played.folder)
    with pytest.raises(InputError, match="not a run folder"):
        unfinished_at(tmp_path)
    with pytest.raises(InputError, match="is playing this soak"):
        unfinished_at(death.folder)
    (death.folder / LOCK).unlink()
    prompt.write_text("Say good night.", encoding="utf-8")
    with pytest.raises(InputError, match="its prompts are not what they were when it began"):
        api.soak_to_resume(death.folder)
    manifest = read_manifest(death.folder)
    for changes, message in (
        (
            {"scenario": msgspec.structs.replace(scenario, prompts=PromptFiles(files="-"))},
            "its prompts came from a pipe",
        ),
        ({"soak": None}, "not a soak; give the run folder of a `loadgen soak` that was cut short"),
    ):
        files.write_json(death.folder / run_folder.MANIFEST, msgspec.structs.replace(manifest, **changes))
        with pytest.raises(InputError, match=message):
            api.soak_to_resume(death.folder)
