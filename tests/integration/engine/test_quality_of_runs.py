"""Runs on a real socket score what they timed, whoever plays them, and the report makes the same bytes again."""

from pathlib import Path

import pytest

from loadgen import api
from loadgen.analysis.quality import scored_answers
from loadgen.analysis.summarize import merged, summarize
from loadgen.report.files import write_reports
from loadgen.scenario import InlinePrompt
from loadgen.store.run_folder import Run
from tests.integration.engine.test_session import closed, scenario
from tests.integration.server import Script, Served, Server, streamed, whole

pytestmark = pytest.mark.asyncio
POINTS = {
    "a": "Ana pays 140 euros by 3 April",
    "b": "Ben pays 250 euros by 4 April",
    "c": "Cleo rents two vans on Monday",
}
PROMPTS = tuple(
    InlinePrompt(f"Meeting {key}. Chair: {point}, agreed. All: Yes, and thanks to everybody.", key, (point,))
    for key, point in POINTS.items()
)


def answer(request: Served) -> Script:
    """`good` says the key point, `bad` another one, and `busy` fails at every second prompt."""
    key = request.says.removeprefix("Meeting ")[:1]
    point = POINTS.get(key, "Hello.")
    if request.model == "busy" and key == "b":
        return whole("503 Busy", b"busy")
    said = POINTS["a"] if request.model == "bad" else point
    return streamed(*(f"{word} " for word in said.split()))


def qualities(run: Run) -> list[tuple[str, str, int, float | None]]:
    return [(each.model, each.level, each.index, each.quality) for each in scored_answers(run.folder)]


async def test_several_processes_and_one_give_the_same_marks_of_several_models_and_levels(tmp_path: Path) -> None:
    with Server(answer) as server:
        models = dict.fromkeys(("good", "bad", "busy"), server.url)
        asked = scenario(tmp_path, models, closed((1, 2), 6), prompts=PROMPTS, keep_text=True)
        alone = await api.run(asked, results=tmp_path, workers=1)
        together = await api.run(asked, results=tmp_path, workers=2)
    assert qualities(together) == qualities(alone)
    means = {(stage.model, stage.level): stage.quality.mean for stage in summarize(together).stages if stage.quality}
    assert {means["good", level] for level in ("c1", "c2")} == {100.0}
    assert {round(means["bad", level] or 0) for level in ("c1", "c2")} == {33}
    assert {round(means["busy", level] or 0) for level in ("c1", "c2")} == {67}
    failed = [each for each in scored_answers(together.folder) if "failed" in each.flags]
    assert {(each.model, each.prompt_id, each.quality) for each in failed} == {("busy", "b", 0.0)}
    assert all(stage.quality.same_text == 1.0 for stage in merged([alone, together]).stages if stage.quality)


async def test_the_report_makes_the_same_bytes_again(tmp_path: Path) -> None:
    with Server(answer) as server:
        asked = scenario(tmp_path, {"good": server.url}, closed(1, 3), prompts=PROMPTS, keep_text=True)
        run = await api.run(asked, results=tmp_path)
    write_reports(run.folder)
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    write_reports(run.folder)
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before
    assert {"prompts.jsonl", "quality.jsonl"} <= set(before)
