"""Two variants in alternation, in virtual time: which runs are played, when, and what is kept of them."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from loadgen import api
from loadgen.analysis.summarize import summarize
from loadgen.analysis.summary import Reason, Summary
from loadgen.decisions.versus.order import block_orders
from loadgen.decisions.versus.play import PlayedBlocks
from loadgen.engine.stop import StopSignal
from loadgen.errors import FolderError, InputError
from loadgen.live.progress import Silence
from loadgen.scenario import Closed, Model, Scenario, Timeouts
from loadgen.scenario.file import LoadedScenario
from loadgen.store import run_folder
from loadgen.store.run_folder import Run
from tests.compared_runs import compare_runs
from tests.virtual import run
from tests.virtual_client import CLOCK, MS, Answer, ScriptedClient, no_connection, stream

pytestmark = pytest.mark.slow

GAP_NS = {"a": 10 * MS, "b": 30 * MS}
REQUESTS = 4


@pytest.fixture(autouse=True)
def _on_a_system_that_does_not_say_who_else_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadgen.engine.run.machine_source", lambda: None)


def variant(name: str, folder: Path) -> LoadedScenario:
    scenario = Scenario(
        name="two",
        prompts=("Say hello.",),
        models=(Model(name=name, url=f"http://{name}.invalid/v1", target="openai"),),
        load=Closed(requests=REQUESTS, ramp_in_s=0.0),
        timeouts=Timeouts(ready_s=0.0),
    )
    return LoadedScenario(scenario, None, folder, "the test")


class Alternation:
    """Plays both variants; servers answer by their model, and chosen runs are called invalid."""

    def __init__(self, folder: Path, invalid: Callable[[str, int], bool] = lambda *_: False) -> None:
        """invalid: of a variant and the number of its run, from 1."""
        self.folder = folder
        self.stop = StopSignal()
        self.client = ScriptedClient(self._answer)
        self.lines: list[str] = []
        self.runs: list[tuple[str, int]] = []
        """Variant and block of each, in the order in which they were played."""
        self.answer: Callable[[str], Answer] = lambda model: stream("a ", "b ", gap_ns=GAP_NS[model])
        self.ended_ns = 0
        self.after_run: Callable[[], object] = lambda: None
        self._invalid = invalid

    def play(self, blocks: int = 3, **asked: Any) -> PlayedBlocks:
        return run(self._play(blocks, **asked))

    async def _play(self, blocks: int, **asked: Any) -> PlayedBlocks:
        played = await api.versus(
            variant("a", self.folder),
            variant("b", self.folder),
            blocks,
            results=self.folder,
            progress=_Lines(self.lines),
            stop=self.stop,
            summarized=self._summarized,
            clock=CLOCK,
            client=self.client,
            **asked,
        )
        self.ended_ns = CLOCK.now_ns()
        return played

    def _answer(self, body: dict[str, Any], _: int) -> Answer:
        return self.answer(body["model"])

    def _summarized(self, played: Run) -> Summary:
        name, block = played.manifest.variant, played.manifest.block
        assert name is not None and block is not None
        self.runs.append((name, block))
        summary = summarize(played)
        if self._invalid(name, sum(each == name for each, _ in self.runs)):
            (stage,) = summary.stages
            reason = Reason(code="own_cpu", observed="too much", limit="", advice="", fatal=True)
            assert stage.validity is not UNSET
            validity = msgspec.structs.replace(stage.validity, verdict="invalid", reasons=(reason,))
            summary = msgspec.structs.replace(summary, stages=(msgspec.structs.replace(stage, validity=validity),))
        self.after_run()
        return summary


class _Lines(Silence):
    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def announce(self, text: str) -> None:
        self._lines.append(text)

    def begin_run(self, title: str) -> None:
        self._lines.append(title)

    def warn(self, text: str) -> None:
        self._lines.append(text)


def file_of(played: PlayedBlocks) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((played.folder / "pairs.json").read_text("utf-8"))
    return data


def test_blocks_are_played_in_the_order_that_the_seed_gives_and_each_run_stands_alone(tmp_path: Path) -> None:
    alternation = Alternation(tmp_path)
    played = alternation.play(4)
    orders = block_orders(4, 1)
    assert alternation.runs == [(name, block) for block, order in enumerate(orders, 1) for name in order]
    folders = run_folder.runs_of(tmp_path / "two")
    assert len(folders) == 8
    first = min((run_folder.read(folder) for folder in folders), key=lambda each: each.manifest.started_utc)
    assert played.folder == first.folder.with_name(f"{first.folder.name}-ab4")
    assert played.ended == "complete"
    data = file_of(played)
    assert data["schema"] == "loadgen.pairs/1"
    assert data["order"] == list(orders)
    assert data["versus"] == {"models[0].name": "b", "models[0].url": "http://b.invalid/v1"}
    for number, block in enumerate(data["blocks"], 1):
        for name in ("a", "b"):
            manifest = run_folder.read(tmp_path / "two" / block[name]).manifest
            assert (manifest.variant, manifest.block) == (name.upper(), number)
            assert manifest.scenario.models[0].name == name
            assert manifest.state == "complete"
    assert alternation.lines[:2] != []
    assert [line for line in alternation.lines if line.startswith("block 1 of 4: ")] == [
        f"block 1 of 4: {name}" for name in orders[0]
    ]


def test_a_run_of_its_own_is_of_no_variant(tmp_path: Path) -> None:
    client = ScriptedClient(lambda *_: stream("a", "b"))
    alone = run(api.run(variant("a", tmp_path), results=tmp_path, clock=CLOCK, client=client))
    assert (alone.manifest.variant, alone.manifest.block) == (None, None)


def test_a_block_with_an_invalid_run_is_played_again_and_keeps_its_number(tmp_path: Path) -> None:
    alternation = Alternation(tmp_path, invalid=lambda name, number: (name, number) == ("B", 2))
    played = alternation.play(3)
    data = file_of(played)
    assert len(data["blocks"]) == 3
    again = [block for _, block in alternation.runs].count
    assert [again(number) for number in (1, 2, 3)] == [2, 3 if block_orders(3, 1)[1] == "BA" else 4, 2]
    assert {(each["block"], each["why"]) for each in data["unused"]} == {(2, "B: b at c1 is invalid: too much")}
    used = {block[name] for block in data["blocks"] for name in ("a", "b")}
    assert used.isdisjoint(each["run"] for each in data["unused"])
    assert "block 2 of 3 is played again: B: b at c1 is invalid: too much" in alternation.lines


def test_no_more_blocks_are_played_again_than_were_asked_for(tmp_path: Path) -> None:
    alternation = Alternation(tmp_path, invalid=lambda name, _: name == "A")
    played = alternation.play(3)
    assert sum(name == "A" for name, _ in alternation.runs) == 3 + 3
    data = file_of(played)
    assert (data["blocks"], data["order"], played.ended) == ([], [], "complete")
    with pytest.raises(InputError, match=r"no block was completed"):
        compare_runs(played.folder)


def test_a_block_that_is_given_up_leaves_the_others_with_their_orders(tmp_path: Path) -> None:
    alternation = Alternation(tmp_path, invalid=lambda name, number: name == "A" and number <= 4)
    played = alternation.play(3)
    data = file_of(played)
    assert len(data["blocks"]) == 2
    assert data["order"] == list(block_orders(3, 1))[1:]
    for order, block in zip(data["order"], data["blocks"], strict=True):
        started = {name: run_folder.read(tmp_path / "two" / block[name.lower()]).manifest.started_utc for name in order}
        assert started[order[0]] < started[order[1]]


def test_runs_rest_between_each_other_and_not_before_the_first(tmp_path: Path) -> None:
    times: list[int] = []
    alternation = Alternation(tmp_path)
    alternation.after_run = lambda: times.append(CLOCK.now_ns())
    alternation.play(2, rest_s=100.0)
    first = alternation.client.sent_at_ns[0]
    assert times[0] - first < 10_000 * MS
    sent = alternation.client.sent_at_ns
    starts = [next(moment for moment in sent if moment >= ended) for ended in times[:-1]]
    rests = [start - ended for start, ended in zip(starts, times[:-1], strict=True)]
    assert all(100_000 * MS <= rest < 101_000 * MS for rest in rests)


@pytest.mark.parametrize("level", ["drain", "cancel"])
def test_a_stop_ends_the_run_and_leaves_the_whole_blocks(level: str, tmp_path: Path) -> None:
    alternation = Alternation(tmp_path)

    def answer(model: str) -> Answer:
        if len(alternation.runs) == 3:  # in the fourth run
            getattr(alternation.stop, level)()
        return stream("a ", "b ", gap_ns=GAP_NS[model])

    alternation.answer = answer
    played = alternation.play(5)
    assert (played.ended, len(alternation.runs)) == ("interrupted", 4)
    data = file_of(played)
    assert len(data["blocks"]) == 1
    assert [(each["block"]) for each in data["unused"]] == [2, 2]
    states = [run_folder.read(folder).manifest.state for folder in run_folder.runs_of(tmp_path / "two")]
    assert sorted(states) == ["complete"] * 3 + ["interrupted"]


def test_a_stop_during_a_rest_is_heard_at_once(tmp_path: Path) -> None:
    alternation = Alternation(tmp_path)
    times: list[int] = []

    def stop_in_a_minute() -> None:
        times.append(CLOCK.now_ns())
        if len(times) == 2:
            asyncio.get_running_loop().call_later(60, alternation.stop.drain)

    alternation.after_run = stop_in_a_minute
    played = alternation.play(5, rest_s=3600.0)
    assert (played.ended, len(played.pairs.blocks)) == ("interrupted", 1)
    assert alternation.ended_ns - times[-1] == 60_000 * MS


def test_a_stop_after_the_last_run_interrupts_nothing(tmp_path: Path) -> None:
    alternation = Alternation(tmp_path)
    alternation.after_run = lambda: alternation.stop.drain() if len(alternation.runs) == 4 else None
    played = alternation.play(2)
    assert (played.ended, len(played.pairs.blocks)) == ("complete", 2)


def test_a_variant_that_no_server_answers_is_the_end(tmp_path: Path) -> None:
    alternation = Alternation(tmp_path)
    alternation.answer = lambda model: no_connection() if model == "b" else stream("a ", "b ")
    played = alternation.play(4)
    assert played.ended == "no_target"
    assert sum(name == "B" for name, _ in alternation.runs) == 1
    assert len(played.skipped) == 1
    assert played.skipped[0].startswith("B: skipped b on b.invalid")
    assert played.pairs.blocks == ()


def test_a_server_that_fails_once_costs_one_block(tmp_path: Path) -> None:
    alternation = Alternation(tmp_path)
    second = [i for i, name in enumerate("".join(block_orders(3, 1))) if name == "B"][1]

    def answer(model: str) -> Answer:
        return no_connection() if len(alternation.runs) == second else stream("a ", "b ", gap_ns=GAP_NS[model])

    alternation.answer = answer
    played = alternation.play(3)
    assert (played.ended, len(played.pairs.blocks)) == ("complete", 3)
    assert {each.why for each in played.pairs.unused} == {"B: no model could be used"}


def test_what_kills_the_program_leaves_the_blocks_that_were_whole(tmp_path: Path) -> None:
    """As far as that can be seen from within: each file is written before the next run begins."""
    alternation = Alternation(tmp_path)

    def die() -> None:
        if len(alternation.runs) == 5:
            raise RuntimeError("killed")

    alternation.after_run = die
    with pytest.raises(RuntimeError):
        alternation.play(6)
    (folder,) = (tmp_path / "two").glob("*-ab6")
    data = json.loads((folder / "pairs.json").read_text("utf-8"))
    assert len(data["blocks"]) == 2
    assert len(data["order"]) == 6
    assert compare_runs(folder, results=tmp_path).base == tuple(block["a"] for block in data["blocks"])


def test_a_folder_that_can_no_longer_be_written_leaves_the_blocks_that_were_complete(tmp_path: Path) -> None:
    alternation = Alternation(tmp_path)

    def lose(after: int) -> None:
        if len(alternation.runs) == after:
            raise FolderError("full", tmp_path)

    alternation.after_run = lambda: lose(3)
    played = alternation.play(4)
    assert (played.ended, len(played.pairs.blocks), str(played.failure)) == ("failed", 1, "full")
    assert len(file_of(played)["blocks"]) == 1
    alternation.runs.clear()
    alternation.after_run = lambda: lose(2)
    with pytest.raises(FolderError):
        alternation.play(4)


def test_fewer_than_two_blocks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^1 blocks: "):
        Alternation(tmp_path).play(1)
