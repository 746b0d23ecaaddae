"""A whole run in virtual time: two models, and a retry, from the plan to the records, without a socket."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen import api
from loadgen.analysis.quality import scored_answers
from loadgen.analysis.summarize import summarize
from loadgen.errors import SinkError
from loadgen.live.sink import NullSink, StageStart
from loadgen.plan.plan import Plan
from loadgen.plan.prompts import Prompt
from loadgen.record import Record, StageFacts
from loadgen.scenario import Closed, Constant, Load, Model, Retries, Scenario
from loadgen.scenario.file import LoadedScenario
from loadgen.store.run_folder import Run, SentPrompt, read
from tests.virtual import run
from tests.virtual_client import CLOCK, MS, Answer, ScriptedClient, stream

TOKEN_NS = {"fast": 10 * MS, "slow": 40 * MS}
TOKENS = 3


class VirtualClient(ScriptedClient):
    """Servers that answer with a token every so often, and refuse the requests they are told to."""

    def __init__(self, refused: Sequence[tuple[str, int]] = ()) -> None:
        """refused: (model, which of its requests), counted from 0 with the preflight's."""
        super().__init__(self._answer_of)
        self._refused = set(refused)

    def _answer_of(self, body: dict[str, Any], _: int) -> Answer:
        model = body["model"]
        number = sum(earlier["model"] == model for earlier in self.bodies)
        if (model, number) in self._refused:
            return Answer((b"busy",), 503, gap_ns=TOKEN_NS[model])
        return stream(*["word "] * TOKENS, gap_ns=TOKEN_NS[model])


def plan_of(load: Load, folder: Path) -> Plan:
    models = tuple(Model(name=name, url=f"http://{name}.invalid/v1", target="openai") for name in TOKEN_NS)
    scenario = Scenario(
        name="virtual",
        prompts=("Say hello.",),
        models=models,
        load=load,
        probe=False,
        warmup_requests=1,
        retries=Retries(attempts=2, backoff_s=1.0, jitter=0.0),
    )
    return api.plan_of(LoadedScenario(scenario, None, folder, "the test"))


class Heard(NullSink):
    def __init__(self) -> None:
        self.stages: list[StageStart] = []
        self.records: list[Record] = []
        self.retries: list[Record] = []
        self.facts: list[StageFacts] = []

    def start(self, stage: StageStart) -> None:
        self.stages.append(stage)

    def record(self, record: Record) -> None:
        self.records.append(record)

    def retry(self, record: Record) -> None:
        self.retries.append(record)

    def stop(self, facts: StageFacts) -> None:
        self.facts.append(facts)


def play(load: Load, folder: Path, client: VirtualClient, sink: Heard) -> Run:
    return run(api.run(plan_of(load, folder), results=folder, clock=CLOCK, client=client, sinks=(sink,)))


def test_a_run_of_two_models_plays_in_virtual_time_and_a_refused_request_is_retried(tmp_path: Path) -> None:
    # The third request of "fast" is its first measured one: after the preflight's and the warm-up's.
    client, heard = VirtualClient(refused=[("fast", 2)]), Heard()
    played = play(Closed(concurrency=(1,), requests=3, ramp_in_s=0.0), tmp_path, client, heard)
    assert played.manifest.state == "complete"
    assert [(stage.models, stage.level, stage.count) for stage in heard.stages] == [
        (("fast",), "c1", 3),
        (("slow",), "c1", 3),
    ]
    assert [(r.model, r.phase, r.index, r.outcome, r.attempt) for r in played.records] == [
        ("fast", "warmup", 0, "ok", 0),
        ("fast", "measured", 0, "http_error", 0),
        ("fast", "measured", 0, "ok", 1),
        ("fast", "measured", 1, "ok", 0),
        ("fast", "measured", 2, "ok", 0),
        ("slow", "warmup", 0, "ok", 0),
        *(("slow", "measured", index, "ok", 0) for index in range(3)),
    ]
    # Every moment to the nanosecond: the backoff is a second after the end of the refusal, and it counts.
    retried = next(r for r in played.records if r.attempt == 1)
    assert retried.dispatched_ns is not None
    assert retried.end_ns == retried.dispatched_ns + 10 * MS + 1_000 * MS + TOKENS * 10 * MS
    assert retried.attempt_ns == retried.dispatched_ns + 1_010 * MS
    assert [stamp - retried.attempt_ns for stamp in retried.stamps_ns] == [10 * MS, 20 * MS, 30 * MS]
    slow = [r for r in played.records if (r.model, r.phase) == ("slow", "measured")]
    assert [after.intended_ns - before.intended_ns for before, after in itertools.pairwise(slow)] == [
        TOKENS * 40 * MS
    ] * 2
    assert [len(client.requests), len(heard.records), len(heard.retries)] == [11, 8, 1]
    assert [facts.complete for facts in heard.facts] == [True, True]
    assert [facts.end_ns - facts.start_ns for facts in heard.facts] == [1_100 * MS, TOKENS * 3 * 40 * MS]


def test_an_open_loop_sends_each_request_when_it_is_due_and_the_summary_is_of_virtual_time(tmp_path: Path) -> None:
    client, heard = VirtualClient(), Heard()
    played = play(Constant(rates_per_s=(50.0,), requests=5), tmp_path, client, heard)
    slow = [r for r in played.records if (r.model, r.phase) == ("slow", "measured")]
    assert [r.intended_ns - slow[0].intended_ns for r in sorted(slow, key=lambda r: r.index)] == [
        index * 20 * MS for index in range(5)
    ]
    assert [r.dispatched_ns == r.intended_ns for r in slow] == [True] * 5
    assert {r.end_ns - r.intended_ns for r in slow if r.end_ns is not None} == {TOKENS * 40 * MS}
    assert [stage.requests.ok for stage in summarize(played).stages] == [5, 5]  # type: ignore[union-attr]


@pytest.mark.parametrize("hook", ["start", "record", "stop"])
def test_a_sink_that_raises_ends_the_run_and_its_folder_says_that_it_was_interrupted(tmp_path: Path, hook: str) -> None:
    def fail(_: object) -> None:
        raise LookupError("of the sink")

    sink = Heard()
    setattr(sink, hook, fail)
    with pytest.raises(SinkError, match=rf"^Heard\.{hook} raised LookupError: of the sink$") as raised:
        play(Closed(concurrency=(2,), requests=4, ramp_in_s=0.0), tmp_path, VirtualClient(), sink)
    assert isinstance(raised.value.__cause__, LookupError)
    (folder,) = tmp_path.glob("*/*")
    assert read(folder).manifest.state == "interrupted"


@pytest.mark.parametrize("hook", ["record", "stop"])
def test_the_sinks_beside_one_that_raises_hear_the_end_of_the_stage(tmp_path: Path, hook: str) -> None:
    def fail(heard: Record | StageFacts) -> None:
        if isinstance(heard, StageFacts) or heard.phase == "measured":
            raise LookupError("of the sink")

    sinks = [Heard(), Heard(), Heard()]
    setattr(sinks[1], hook, fail)
    plan = plan_of(Closed(concurrency=(1,), requests=3, ramp_in_s=0.0), tmp_path)
    with pytest.raises(SinkError):
        run(api.run(plan, results=tmp_path, clock=CLOCK, client=VirtualClient(), sinks=sinks))
    assert [len(sink.facts) for sink in (sinks[0], sinks[2])] == [1, 1]


@pytest.mark.parametrize("keep_text", [True, False])
def test_a_run_keeps_its_prompts_if_it_keeps_its_texts_and_scores_its_answers_from_the_folder(
    tmp_path: Path, keep_text: bool
) -> None:
    plan = plan_of(Closed(concurrency=(1,), requests=2, ramp_in_s=0.0), tmp_path)
    scenario = msgspec.structs.replace(plan.scenario, keep_text=keep_text)
    plan = msgspec.structs.replace(plan, scenario=scenario, prompts=(Prompt("p1", "Say it.", ("a word",)),))
    played = run(api.run(plan, results=tmp_path, clock=CLOCK, client=VirtualClient()))
    assert played.prompts == ((SentPrompt("p1", "Say it.", ("a word",)),) if keep_text else ())
    assert (played.folder / "prompts.jsonl").exists() == keep_text
    assert [scored.quality for scored in scored_answers(played.folder)] == ([100.0] * 4 if keep_text else [])
