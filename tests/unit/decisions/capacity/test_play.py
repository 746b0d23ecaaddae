"""Whole searches in virtual time, against a server of four slots whose capacity is known."""

import asyncio
import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from loadgen import api
from loadgen.cli.capacity import exit_code, failures
from loadgen.decisions.capacity.answer import ModelAnswer
from loadgen.decisions.capacity.document import search_text
from loadgen.decisions.capacity.files import CAPACITY, Capacity, make_search_reports, read_capacity
from loadgen.decisions.capacity.resume import read_earlier
from loadgen.decisions.capacity.search_request import CapacitySettings
from loadgen.decisions.capacity.words import limit_line, remarks_of
from loadgen.engine.stop import StopSignal
from loadgen.errors import ExitCode, InputError, SinkError
from loadgen.live.progress import Silence
from loadgen.live.sink import NullSink
from loadgen.record import Record
from loadgen.report.text_table import Screen
from loadgen.scenario import Closed, Constant, Load, Model, Ramp, Sampling, Scenario, Slo, Timeouts
from loadgen.scenario.file import LoadedScenario
from loadgen.store.run_folder import read
from loadgen.telemetry import observer
from tests.virtual import VirtualLoop, run
from tests.virtual_client import CLOCK, MS, Answer, ScriptedClient, no_connection, refuse, stream

pytestmark = pytest.mark.slow

SLOTS: Final = 4
TOKENS: Final = 6
SLO: Final = ("ttft_p95=2.9s", "ok=90%")
"""Every answer takes 2.4 s. Of up to 8 users, none waits for more than one answer of another, and has its first token
after 2.8 s at the latest; of 9, most wait for longer."""
HOLDS: Final = 8


class SlotsClient(ScriptedClient):
    """A server that works at four requests at once, first come first served."""

    def __init__(self, answer: Callable[[dict[str, Any], int], Answer] | None = None) -> None:
        super().__init__(answer or (lambda _, __: stream(*["word "] * TOKENS, gap_ns=400 * MS, usage=TOKENS)))
        self.turn = asyncio.Semaphore(SLOTS)


class After(NullSink):
    """Calls something when so many measured requests have ended."""

    def __init__(self, count: int, then: Callable[[], None]) -> None:
        self._left = count
        self._then = then

    def record(self, record: Record) -> None:
        self._left -= record.phase == "measured"
        if self._left == 0:
            self._then()


class Heard(Silence):
    """Keeps what is said of the progress."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.words: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def known(self, text: str) -> None:
        self.words.append(text)


def scenario(folder: Path, load: Load | None = None, **changes: Any) -> LoadedScenario:
    model = Model(name="m", url="http://m.invalid/v1", target="openai")
    keys: dict[str, Any] = {"prompts": ("One.", "Two."), "models": (model,), "load": load or Closed(), **changes}
    return LoadedScenario(Scenario(name="searched", **keys), None, folder, "searched.toml")


def asked(**changes: Any) -> CapacitySettings:
    return CapacitySettings(**{"objectives": SLO, "budget_s": 900.0, **changes})


LOOK_NS: Final = 500_000_000
"""How often the observer looks: fifty times a second, as for users, it takes most of the CPU time of a search."""


def search(folder: Path, settings: CapacitySettings, client: ScriptedClient | None = None, **options: Any) -> Capacity:
    played = options.pop("scenario", None) or scenario(folder)
    client = client or SlotsClient()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(observer, "TICK_NS", LOOK_NS)
        return run(api.capacity(played, settings=settings, results=folder, clock=CLOCK, client=client, **options))


def model_of(found: Capacity) -> ModelAnswer:
    (model,) = found.answer.models
    return model


def labels(model: ModelAnswer) -> set[str]:
    return {visit for level in model.levels for visit in level.visits}


def test_the_capacity_of_four_slots_is_found_and_shown_again_byte_for_byte(tmp_path: Path) -> None:
    heard = Heard()
    found = search(tmp_path, asked(within=None), progress=heard)
    model = model_of(found)
    assert (model.holds, model.capacity, model.fails, model.stopped) == (HOLDS, HOLDS, HOLDS + 1, "shown")
    assert (model.limited_by, model.limit.served_at_once) == ("queue", SLOTS)
    assert exit_code(found.answer, 8) == ExitCode.DONE
    assert exit_code(found.answer, 9) == ExitCode.GATE_FAILED
    assert failures(found.answer, 9) == ["m on m.invalid: --require 9: it is not shown that 9 users hold"]
    assert found.folder.name.startswith("capacity-")
    assert found.answer.run_id == found.folder.name
    # Every visit is a stage of one run.
    played = read(found.folder)
    assert {stage.level for stage in played.manifest.stages} == labels(model)
    assert played.manifest.state == "complete"
    assert [record.phase for record in played.records].count("warmup") == 1
    assert (found.folder / "report.md").read_text(encoding="utf-8").count("8 users: 95 % sure that 8 hold") == 1
    assert heard.words[0] == "nothing shown yet · 15 min left"
    assert heard.words[-1].startswith("0 % met ttft_p95=2.9s · 100 % met ok=90% · shown: 8 holds, 9 fails · ")
    # However wide a page's table is, its verdicts stay in sight.
    html = (found.folder / "report.html").read_text(encoding="utf-8")
    visits = html.partition("Every visit as a stage</h2>")[2].partition("</table>")[0]
    assert '<div class="scroll verdict-last"' in visits
    names = [CAPACITY, "report.md", "report.html", "summary.json"]
    before = [(found.folder / name).read_bytes() for name in names]
    shown = make_search_reports(found.folder)
    assert [(found.folder / name).read_bytes() for name in names] == before
    assert shown.answer == found.answer


def test_the_budget_is_kept_and_one_drain_comes_on_top(tmp_path: Path) -> None:
    found = search(tmp_path, asked(budget_s=60.0))
    model = model_of(found)
    assert model.stopped == "budget"
    assert 60.0 <= found.answer.spent_s <= 60.0 + 3 * 2.4
    played = read(found.folder)
    begun = [record.dispatched_ns for record in played.records if record.dispatched_ns is not None]
    assert (max(begun) - min(begun)) / 1e9 <= 60.0


def test_what_cannot_be_shown_within_the_budget_is_said(tmp_path: Path) -> None:
    heard = Heard()
    search(tmp_path, asked(objectives=("ok=99%",), budget_s=60.0), progress=heard)
    assert [line for line in heard.warnings if "455 requests" in line] == [
        "to show a share of 99 % takes 455 requests of a level without a miss: at 2.4 s each 18 min 12 s, and the "
        "budget is 1 min"
    ]


def test_an_interrupted_search_is_resumed_in_a_new_folder_and_its_visits_count(tmp_path: Path) -> None:
    stop = StopSignal()
    first = search(tmp_path, asked(within=None, highest=9.0), stop=stop, sinks=(After(60, stop.drain),))
    assert model_of(first).stopped == "interrupted"
    assert read(first.folder).manifest.state == "interrupted"
    before = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    second = search(tmp_path, asked(within=None, highest=9.0), earlier=read_earlier(first.folder))
    assert {path.name: path.read_bytes() for path in first.folder.iterdir()} == before
    assert second.answer.resumed == (first.answer.run_id,)
    assert second.folder != first.folder
    assert model_of(first).earlier_s == 0.0
    assert model_of(second).earlier_s == pytest.approx(model_of(first).spent_s)
    assert (model_of(second).holds, model_of(second).fails) == (HOLDS, HOLDS + 1)
    assert labels(model_of(first)) < labels(model_of(second))
    played = [{stage.level for stage in read(found.folder).manifest.stages} for found in (first, second)]
    assert not played[0] & played[1], "no visit is played twice"
    again = search(tmp_path, asked(within=None, highest=9.0), earlier=read_earlier(second.folder))
    assert again.answer.resumed == (first.answer.run_id, second.answer.run_id)
    assert read(again.folder).records == (), "all is shown already"
    assert model_of(again).stopped == "shown"
    assert model_of(again).earlier_s == model_of(again).spent_s == pytest.approx(model_of(second).spent_s)


def test_a_search_that_is_killed_keeps_every_visit_that_had_ended(tmp_path: Path) -> None:
    def die() -> None:
        raise LookupError("killed")

    with pytest.raises(SinkError):
        search(tmp_path, asked(within=None, highest=9.0), sinks=(After(60, die),))
    (folder,) = tmp_path.glob("searched/*")
    killed = read_capacity(folder).models[0]
    ended = [facts.level for facts in read(folder).facts]
    assert killed.stopped == "interrupted"
    assert labels(killed) == set(ended[: len(labels(killed))])
    assert len(killed.levels) >= 3
    found = search(tmp_path, asked(within=None, highest=9.0), earlier=read_earlier(folder))
    assert labels(killed) <= labels(model_of(found))
    assert (model_of(found).holds, model_of(found).fails) == (HOLDS, HOLDS + 1)


def test_another_search_is_not_resumed_and_what_differs_is_said(tmp_path: Path) -> None:
    first = search(tmp_path, asked(budget_s=40.0))
    earlier = read_earlier(first.folder)

    def refusal(settings: CapacitySettings, **changes: Any) -> str:
        with pytest.raises(InputError) as raised:
            search(tmp_path, settings, earlier=earlier, scenario=scenario(tmp_path, **changes))
        return str(raised.value)

    short = asked(budget_s=40.0)
    assert "objectives: ttft_p95=2.9s, ok=90% then, ok=90% now" in refusal(asked(objectives=("ok=90%",)))
    assert "prompts: digest" in refusal(short, prompts=("Three.",))
    assert '"max_tokens":128' in refusal(short, sampling=Sampling(max_tokens=9))
    assert "think time: 0 s then, 5 s now" in refusal(asked(think_s=5.0))
    assert "levels: users then, rate now" in refusal(short, load=Constant((1.0,)))
    host = msgspec.structs.replace(earlier.runs[-1].manifest.host, cpu="another")
    manifest = msgspec.structs.replace(earlier.runs[-1].manifest, host=host)
    elsewhere = msgspec.structs.replace(earlier, runs=(msgspec.structs.replace(earlier.runs[-1], manifest=manifest),))
    with pytest.raises(InputError, match="CPU: another then, "):
        search(tmp_path, short, earlier=elsewhere)
    with pytest.raises(InputError, match="must lie beside the earlier one, in "):
        search(tmp_path / "other", short, earlier=earlier)
    assert len(list(tmp_path.glob("**/capacity-*"))) == 1, "nothing was begun"


def test_a_model_that_was_exchanged_is_not_resumed(tmp_path: Path) -> None:
    first = search(tmp_path, asked(budget_s=40.0))
    earlier = read_earlier(first.folder)
    (run_before,) = earlier.runs
    (card,) = run_before.manifest.models
    other = msgspec.structs.replace(run_before.manifest, models=(msgspec.structs.replace(card, id="another"),))
    earlier = msgspec.structs.replace(earlier, runs=(msgspec.structs.replace(run_before, manifest=other),))
    client = SlotsClient()
    with pytest.raises(InputError, match="m's id: another then, m now"):
        search(tmp_path, asked(budget_s=40.0), client, earlier=earlier)
    assert len(client.requests) == 1, "the test chat alone"


def test_a_server_that_is_lost_ends_the_search_and_what_was_shown_stays(tmp_path: Path) -> None:
    alive = stream(*["word "] * TOKENS, gap_ns=400 * MS)
    client = SlotsClient(lambda _, number: alive if number < 100 else no_connection())
    found = search(tmp_path, asked(objectives=("ok=90%",)), client)
    model = model_of(found)
    assert model.stopped == "target_lost"
    assert len(model.levels) > 1
    # That no connection is accepted any more says nothing about a level.
    assert (model.fails, model.limited_by) == (None, None)
    assert {each.missed for level in model.levels for each in level.objectives} == {0}
    records = [each for each in read(found.folder).records if each.phase == "measured"]
    assert sum(each.outcome == "connect_error" for each in records) >= 3, "each has its record all the same"


def test_without_a_server_there_is_no_answer_and_the_exit_code_is_3(tmp_path: Path) -> None:
    played = scenario(tmp_path, timeouts=Timeouts(ready_s=0.0))
    found = search(tmp_path, asked(), SlotsClient(lambda _, __: no_connection()), scenario=played)
    assert model_of(found).stopped == "target_lost"
    assert exit_code(found.answer, None) == ExitCode.NO_TARGET


def test_models_are_searched_one_after_another_each_with_its_own_answer(tmp_path: Path) -> None:
    def answer(body: dict[str, Any], _: int) -> Answer:
        return stream(*["word "] * TOKENS, gap_ns=(400 if body["model"] == "slow" else 100) * MS)

    models = tuple(Model(name=name, url=f"http://{name}.invalid/v1", target="openai") for name in ("slow", "fast"))
    played = scenario(tmp_path, models=models)
    found = search(tmp_path, asked(highest=9.0, within=None), SlotsClient(answer), scenario=played)
    slow, fast = found.answer.models
    assert (slow.model, slow.holds) == ("slow", HOLDS)
    assert (fast.model, fast.holds, fast.stopped) == ("fast", 9, "top")
    levels = [stage.model for stage in read(found.folder).manifest.stages]
    assert levels == sorted(levels, reverse=True), "the first is done before the second begins"
    assert found.answer.spent_s == pytest.approx(slow.spent_s + fast.spent_s)
    text = search_text(found.answer, Screen(80))
    assert "slow on slow.invalid: 8 users: 95 % sure that 8 hold and that 9 do not\n" in text
    assert "fast on fast.invalid: at least 9 users: 95 % sure that 9 hold\n" in text
    page = (found.folder / "report.md").read_text(encoding="utf-8")
    assert "| slow | slow.invalid | users | 8 | 8 | 9 | queue |" in page


def test_a_rate_is_searched_and_each_visit_begins_with_a_burst(tmp_path: Path) -> None:
    # Four slots of 2.4 s each: 1.67 requests a second at most. A burst is worked off in 15 s.
    settings = asked(search="rate", objectives=("ttft_p90=20s",), budget_s=700.0, lowest=1.5, highest=2.5)
    found = search(tmp_path, settings)
    model = model_of(found)
    assert model.search == "rate"
    assert model.holds is not None
    assert 1.5 <= model.holds < 1.67
    assert model.fails is not None
    assert 1.6 < model.fails <= 2.5
    played = read(found.folder)
    level = played.manifest.stages[0].level
    first = [each.intended_ns for each in played.records if (each.level, each.phase) == (level, "measured")]
    assert first.count(min(first)) >= 24


def test_think_time_is_asked_for_and_users_who_think_are_more(tmp_path: Path) -> None:
    found = search(tmp_path, asked(think_s=2.4, lowest=8.0, highest=8.0))
    assert (model_of(found).think_s, model_of(found).holds, model_of(found).stopped) == (2.4, 8, "top")


@pytest.mark.parametrize(
    ("settings", "load", "message"),
    [
        (
            asked(objectives=()),
            None,
            "capacity: there is no objective; add --slo ttft_p95=2s, or [slo] to searched.toml",
        ),
        (asked(), Ramp(0.0, 1.0, 9.0), 'searched.toml: load.mode: a "ramp" load has no levels to search; add --users'),
        (asked(think_s=1.0), Constant((1.0,)), "--think: a search of rates has no users who could think"),
        (asked(lowest=2.5), None, "--from 2.5: the number of users must be whole; write e.g. --from 2"),
    ],
)
def test_what_cannot_be_searched_is_one_line(
    tmp_path: Path, settings: CapacitySettings, load: Load | None, message: str
) -> None:
    with pytest.raises(InputError) as raised:
        search(tmp_path, settings, scenario=scenario(tmp_path, load))
    assert str(raised.value).startswith(message)
    assert not list(tmp_path.iterdir())


def test_the_limits_of_a_scenario_are_an_objective(tmp_path: Path) -> None:
    played = scenario(tmp_path, slo=Slo(ttft_ms=2900.0, attainment=0.95))
    found = search(tmp_path, asked(objectives=(), highest=4.0), scenario=played)
    assert [each.objective for each in model_of(found).objectives] == ["goodput=95%"]
    assert model_of(found).holds == 4


class StandsStill(NullSink):
    """Stops this process for 3 s at a time, several times in one visit, as a laptop that is closed would."""

    def __init__(self, level: str) -> None:
        self._level = level
        self._ended = 0

    def record(self, record: Record) -> None:
        self._ended += record.level == self._level
        if record.level == self._level and self._ended % 5 == 0:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            loop.now_ns += 3_000 * MS


def test_a_client_that_stands_still_while_it_searches_lowers_no_capacity(tmp_path: Path) -> None:
    found = search(tmp_path, asked(within=None, highest=9.0), sinks=(StandsStill("c8"),))
    model = model_of(found)
    assert (model.holds, model.fails) == (HOLDS, HOLDS + 1)
    stalled = next(level for level in model.levels if "c8" in level.visits)
    assert stalled.doubts == ("client",)
    assert "8 users: some of its visits do not count: loadgen itself was in the way" in remarks_of(model)


def test_a_server_that_refuses_what_is_too_much_is_limited_by_its_errors(tmp_path: Path) -> None:
    def answer(_: dict[str, Any], __: int) -> Answer:
        return refuse(503, {"error": "the queue is full"}) if client.in_flight >= 6 else fine

    fine = stream(*["word "] * TOKENS, gap_ns=400 * MS)
    client = SlotsClient(answer)
    model = model_of(search(tmp_path, asked(objectives=("ok=90%",), within=None), client))
    assert (model.holds, model.fails, model.limited_by) == (6, 7, "errors")
    assert (model.limit.outcome, model.limit.status) == ("http_error", 503)
    assert "limited by the server's errors: http_error 503" in limit_line(model, 600.0)


def test_a_request_is_not_cut_off_before_twice_the_longest_limit_that_is_asked_for(tmp_path: Path) -> None:
    searched = search(tmp_path, asked(objectives=("ttft_p95=90s", "ok=90%"), highest=2, budget_s=60.0))
    stages = read(searched.folder).manifest.stages
    assert {stage.request_limit_s for stage in stages} == {180.0}
    assert {objective.objective for objective in searched.answer.models[0].objectives} == {"ttft_p95=90s", "ok=90%"}


def test_a_request_that_is_past_its_limit_counts_before_it_ends(tmp_path: Path) -> None:
    """Every sixth answer takes a minute. It is shown that 12 users do not hold while the first of them is open."""

    def answer(_: dict[str, Any], number: int) -> Answer:
        return stream(*["word "] * TOKENS, gap_ns=(10_000 if number % 6 == 3 else 400) * MS, usage=TOKENS)

    settings = asked(objectives=("ttft_p99=2.9s", "ok=90%"), lowest=12.0, highest=12.0)
    played = scenario(tmp_path, timeouts=Timeouts(request_s=600.0))
    found = search(tmp_path, settings, ScriptedClient(answer), scenario=played)
    visit = [each for each in read(found.folder).records if (each.level, each.phase) == ("c12", "measured")]
    slow = [each for each in visit if len(each.stamps_ns) and each.stamps_ns[0] - (each.sent_ns or 0) > 2_900 * MS]
    assert len(slow) >= 6
    assert model_of(found).fails == 12
    assert max(each.dispatched_ns or 0 for each in visit) < min(each.end_ns or 0 for each in slow)


class Memory(NullSink):
    """Measures the memory that Python has allocated, after each `EVERY` requests."""

    EVERY: Final = 40

    def __init__(self) -> None:
        self.bytes: list[int] = []
        self._ended = 0

    def record(self, record: Record) -> None:
        self._ended += 1
        if self._ended % self.EVERY == 0:
            gc.collect()
            self.bytes.append(tracemalloc.get_traced_memory()[0])


def test_an_hour_of_a_search_takes_a_few_mib(tmp_path: Path) -> None:
    """A search keeps of each request what its answer needs: 1.6 requests a second are 5,760 in an hour."""
    memory = Memory()
    settings = asked(objectives=("ok=98%",), lowest=8.0, highest=8.0)
    tracemalloc.start()
    try:
        search(tmp_path, settings, sinks=(memory,))
    finally:
        tracemalloc.stop()
    per_request = (memory.bytes[-1] - memory.bytes[0]) / (memory.EVERY * (len(memory.bytes) - 1))
    assert len(memory.bytes) >= 5
    assert per_request * 5760 < 16 * 2**20
