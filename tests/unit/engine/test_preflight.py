"""Before anything is timed: what a server refuses, and whether it is ready."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from loadgen import api
from loadgen.analysis.summarize import summarize
from loadgen.live.progress import Silence
from loadgen.scenario import Closed, Model, Sampling, Scenario
from loadgen.scenario.file import LoadedScenario
from loadgen.store.run_folder import Run
from tests.virtual import run
from tests.virtual_client import CLOCK, Answer, ScriptedClient, refuse, stream

KEYS = {"max_tokens", "max_completion_tokens", "temperature", "seed", "stream_options"}


class Notes(Silence):
    """Holds the lines for the person."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def play(client: ScriptedClient, folder: Path, **scenario: Any) -> tuple[Run, list[str]]:
    """A run of one model, in virtual time: a warm-up request and three others; and what was said."""
    keys: dict[str, Any] = {
        "models": (Model(name="m", url="http://m.invalid/v1", target="openai"),),
        "load": Closed(requests=3, ramp_in_s=0.0),
        "sampling": Sampling(max_tokens=48),
        **scenario,
    }
    loaded = LoadedScenario(Scenario(name="preflight", prompts=("Say hello.",), **keys), None, folder, "the test")
    progress = Notes()
    return run(api.run(loaded, results=folder, clock=CLOCK, client=client, progress=progress)), progress.lines


# --- keys that a server refuses ---------------------------------------------------------------------------------------


def unknown(key: str) -> Answer:
    return refuse(422, {"detail": [{"loc": ["body", key], "msg": "Extra inputs are not permitted"}]})


def param(key: str, message: str = "no") -> Answer:
    return refuse(400, {"error": {"message": message, "param": key}})


def refusing(*keys: str, answer: Callable[[str], Answer] = unknown) -> ScriptedClient:
    """A server that refuses a body with one of these keys, one at a time."""
    return ScriptedClient(
        lambda body, _: next((answer(key) for key in keys if key in body), stream("Hello", " there.", usage=2))
    )


def test_a_key_that_the_server_refuses_is_left_out_of_every_request(tmp_path: Path) -> None:
    client = refusing("seed", "stream_options")
    played, notes = play(client, tmp_path)
    assert [record.outcome for record in played.records] == ["ok"] * 4
    assert [sorted(KEYS & {*body}) for body in client.bodies[:3]] == [
        ["max_tokens", "seed", "stream_options", "temperature"],
        ["max_tokens", "stream_options", "temperature"],
        ["max_tokens", "temperature"],
    ]
    assert all(not {"seed", "stream_options"} & {*body} for body in client.bodies[3:])
    (card,) = played.manifest.models
    assert card.refused_keys == {"seed": None, "stream_options": None}
    assert [note for note in notes if "refuses" in note] == [
        "m on m.invalid refuses seed, which is left out",
        "m on m.invalid refuses stream_options, which is left out",
    ]


def test_max_tokens_is_sent_under_the_name_that_the_server_wants(tmp_path: Path) -> None:
    client = refusing("max_tokens", answer=lambda key: param(key, "use max_completion_tokens instead"))
    played, notes = play(client, tmp_path)
    assert all(body["max_completion_tokens"] == 48 and "max_tokens" not in body for body in client.bodies[2:])
    assert played.manifest.models[0].refused_keys == {"max_tokens": "max_completion_tokens"}
    assert "m on m.invalid refuses max_tokens, which is sent as max_completion_tokens" in notes


def test_a_limit_that_is_refused_under_both_names_is_left_out(tmp_path: Path) -> None:
    client = refusing(
        "max_tokens", "max_completion_tokens", answer=lambda key: param(key, f"{key}; see max_completion_tokens")
    )
    played, _ = play(client, tmp_path)
    assert played.manifest.models[0].refused_keys == {"max_tokens": None}
    assert all(not {"max_tokens", "max_completion_tokens"} & {*body} for body in client.bodies[3:])


def test_keys_that_a_sentence_lists_as_allowed_are_sent_again(tmp_path: Path) -> None:
    text = "Supported: max_tokens, temperature. Not supported: seed"
    client = refusing("seed", answer=lambda _: refuse(400, text.encode()))
    played, _ = play(client, tmp_path)
    assert played.manifest.models[0].refused_keys == {"seed": None}
    assert KEYS & {*client.bodies[-1]} == {"max_tokens", "temperature", "stream_options"}


@pytest.mark.parametrize(
    "answer",
    [
        param("model", "no such model; see max_tokens"),
        param("messages"),
        refuse(400, {"error": {"message": "no"}}),
        refuse(401, {"error": {"message": "seed", "param": "seed"}}),
        refuse(500, {"error": {"message": "seed", "param": "seed"}}),
    ],
)
def test_what_names_no_key_that_can_be_left_out_is_asked_once(tmp_path: Path, answer: Answer) -> None:
    client = ScriptedClient(lambda _body, _number: answer)
    played, _ = play(client, tmp_path)
    assert len(client.bodies) == 1
    assert played.manifest.stages[0].skipped is not None


def test_a_key_of_the_scenarios_own_is_not_taken_out(tmp_path: Path) -> None:
    client = refusing("top_k")
    played, _ = play(client, tmp_path, sampling=Sampling(extra={"top_k": 4}))
    assert len(client.bodies) == 1
    assert "top_k" in (played.manifest.stages[0].skipped or "")


def test_runs_that_went_without_the_same_keys_have_one_digest_and_others_another(tmp_path: Path) -> None:
    plain, without, again, other = (
        play(client, tmp_path)[0].manifest.plan_digest
        for client in (refusing(), refusing("seed"), refusing("seed"), refusing("temperature"))
    )
    assert without == again
    assert len({plain, without, other}) == 3


def test_tokens_are_counted_by_events_and_marked_so_where_usage_is_not_asked_for(tmp_path: Path) -> None:
    client = ScriptedClient(
        lambda body, _: unknown("stream_options") if "stream_options" in body else stream("Hello", " there.")
    )
    played, _ = play(client, tmp_path)
    (stage,) = summarize(played).stages
    assert stage.tokens != UNSET and stage.tokens.source == "events"
    assert "counted by events" in stage.not_valid["output_tokens_per_s"]
