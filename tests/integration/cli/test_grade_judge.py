"""`loadgen grade --judge`: judges over the loopback that are right, useless, broken, silent or gone."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen.decisions.grade import judge_chat
from loadgen.decisions.grade.judges_file import JUDGES, read_judgings
from loadgen.decisions.grade.notes import NOTES, read_notes
from loadgen.errors import ExitCode
from loadgen.targets import ready
from tests.command_line import run_command, without_settings
from tests.integration.server import Fin, Hang, Script, Served, Server, whole
from tests.selected_runs import SelectedModel, write_run

Say = Callable[[str], str]
"""What a judge answers to the text of a question."""

MODELS = (SelectedModel(name="a", points=(4, 3)), SelectedModel(name="b", points=(1, 2)))


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_settings(monkeypatch)
    monkeypatch.setenv("LOADGEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(judge_chat, "RETRIES", msgspec.structs.replace(judge_chat.RETRIES, backoff_s=0.0))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", MODELS)


def between(question: str, tag: str) -> str:
    match = re.search(rf"<{tag}>\n(.*?)\n?</{tag}>", question, re.DOTALL)
    assert match is not None
    return match[1]


def covered(question: str, tag: str) -> float:
    """The share of the expected points that an answer has word for word."""
    points = [line.removeprefix("- ").rstrip(".") for line in between(question, "expected").splitlines()]
    text = between(question, tag)
    return sum(point in text for point in points) / len(points)


def right(question: str) -> str:
    """A judge that gives each answer the share of its points, on the scale that it is shown."""
    if "<first>" in question:
        first, second = covered(question, "first"), covered(question, "second")
        better = "tie" if first == second else "first" if first > second else "second"
        return json.dumps({"reason": "counted", "better": better})
    note = 1 + round(4 * covered(question, "answer"))
    return json.dumps({"reason": "counted", "note": 6 - note if "1 = very good" in question else note})


def chat(text: str, **more: Any) -> Script:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return whole("200 OK", json.dumps({"object": "chat.completion", "choices": [choice]} | more).encode())


def is_greeting(request: Served) -> bool:
    return request.says.startswith("Reply with")


def judge(say: Say) -> Server:
    return Server(lambda request: chat('{"reason": "ready", "note": 3}' if is_greeting(request) else say(request.says)))


def grade(run: Path, url: str, *more: object) -> Any:
    return run_command("grade", run, "--judge", url, "--judge-model", "j", "--ready", "0", *more)


def untouched(run: Path) -> bool:
    return not (run / NOTES).exists() and not (run / JUDGES).exists()


def test_a_judge_that_is_right_passes_its_test_and_its_notes_are_kept(run: Path) -> None:
    with judge(right) as server:
        result = grade(run, server.url)
    assert (result.returncode, result.stderr) == (ExitCode.DONE, "")
    notes = read_notes([run])
    assert len(notes) == 16 * 4
    assert {note.kind for note in notes} == {"judge"}
    assert {note.by for note in notes} == {"j (notes/1)"}
    assert {note.reason for note in notes} == {"counted"}
    (judging,) = read_judgings([run]).values()
    assert judging.test.right == {"other": 8, "figures": 8}
    assert (judging.asked, judging.without_verdict, judging.votes) == (16 * 4 * 3, 0, 3)
    assert (judging.response_format, judging.self_judged, judging.pairs) == ("json_schema", False, None)
    assert f"j (notes/1) at {server.url}: 64 notes on 16 answers" in result.stdout
    assert "j (notes/1): not compared with people" in result.stdout
    status = json.loads(run_command("grade", run, "--status", "--json").stdout)
    assert status["graders"] == [{"by": "j (notes/1)", "kind": "judge", "notes": 64, "answers": 16}]
    assert status["judges"][0]["judging"]["test"]["passed"]
    assert status["judges"][0]["with_people"] is None


def test_its_notes_say_how_much_of_the_points_an_answer_has_whichever_scale_it_was_shown(run: Path) -> None:
    with judge(right) as server:
        grade(run, server.url)
        scales = ["1 = very good" in request.says for request in server.chats if "Grade one aspect" in request.says]
    assert {note.note for note in read_notes([run])} == {2, 3, 4, 5}  # 1 to 4 of 4 points
    assert 0.4 < sum(scales) / len(scales) < 0.6


@pytest.mark.parametrize(
    ("say", "why"),
    [
        (lambda _: '{"reason": "fine", "note": 3}', "in 0 of 8"),
        (lambda _: '{"reason": "great", "note": 5}', "in 0 of 8"),
        (lambda _: '{"reason": "9 of 10", "note": 9}', "questions had no verdict"),
        (lambda _: "I would give this answer 4 of 5 points.", "questions had no verdict"),
        (lambda _: '{"reason": "cut", "note": 4', "questions had no verdict"),
        (lambda _: '{"reason": "?", "note": NaN}', "questions had no verdict"),
        (lambda _: "", "questions had no verdict"),
        (lambda _: '[{"reason": "x", "note": 4}]', "questions had no verdict"),
        (lambda question: right(question.replace("1 = very good", "")), "cannot tell good from bad"),
    ],
)
def test_a_judge_that_cannot_tell_good_from_bad_is_refused_and_changes_nothing(run: Path, say: Say, why: str) -> None:
    with judge(say) as server:
        result = grade(run, server.url)
    assert result.returncode == ExitCode.GATE_FAILED
    assert "this judge cannot tell good from bad" in result.stderr
    assert why in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert untouched(run)


def test_no_verdict_is_asked_again_twice_and_then_left_out_and_counted(run: Path) -> None:
    """Silent on `clear` of one answer alone, which is 3 of 192 votes."""
    texts: list[str] = []

    def say(question: str) -> str:
        if "only: clear" in question:
            texts[:] = texts or [between(question, "answer")]
            if between(question, "answer") in texts:
                return "It is clear enough: 4."
        return right(question)

    with judge(say) as server:
        result = grade(run, server.url)
        asked = [request.says for request in server.chats if "only: clear" in request.says]
    assert result.returncode == ExitCode.DONE
    (judging,) = read_judgings([run]).values()
    assert (judging.asked, judging.without_verdict) == (192, 3)
    assert len(read_notes([run])) == 63
    assert sum(between(question, "answer") in texts for question in asked) == 3 * 3


def test_a_judge_that_is_silent_on_more_than_a_tenth_changes_nothing(run: Path) -> None:
    with judge(lambda question: "Hm." if "only: clear" in question else right(question)) as server:
        result = grade(run, server.url)
    assert result.returncode == ExitCode.GATE_FAILED
    assert "no verdict on 48 of 192 questions" in result.stderr
    assert untouched(run)


def test_pairs_are_asked_in_both_orders_and_count_if_both_agree(run: Path) -> None:
    with judge(right) as server:
        result = grade(run, server.url, "--pairs", "--votes", "1")
        asked = [request.says for request in server.chats if "<first>" in request.says]
    (judging,) = read_judgings([run]).values()
    assert judging.pairs is not None
    (score,) = judging.pairs.scores
    assert (score.first, score.second, score.first_better, score.second_better) == ("a@url", "b@url", 8, 0)
    assert (judging.pairs.pairs, judging.pairs.position_consistency, judging.pairs.first_place_share) == (8, 1.0, 0.5)
    assert len(asked) == 16
    assert "both orders agree in 100 % of 8 pairs" in result.stdout.replace("\u202f", " ").replace("\xa0", " ")


def test_a_judge_that_prefers_the_first_place_has_only_ties(run: Path) -> None:
    def say(question: str) -> str:
        return '{"reason": "it came first", "better": "first"}' if "<first>" in question else right(question)

    with judge(say) as server:
        grade(run, server.url, "--pairs", "--votes", "1")
    (judging,) = read_judgings([run]).values()
    assert judging.pairs is not None
    (score,) = judging.pairs.scores
    assert (score.first_better, score.second_better, score.ties) == (0, 0, 8)
    assert (judging.pairs.position_consistency, judging.pairs.first_place_share) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("refused", "used"),
    [(("json_schema",), "json_object"), (("json_schema", "json_object"), "none")],
)
@pytest.mark.parametrize("status", ["400 Bad Request", "422 Unprocessable Entity", "500 Internal Server Error"])
def test_a_server_that_refuses_a_form_of_answers_is_asked_for_the_next(
    run: Path, refused: tuple[str, ...], used: str, status: str
) -> None:
    def choose(request: Served) -> Script:
        asked = json.loads(request.body).get("response_format", {}).get("type")
        if asked in refused:
            return whole(status, b'{"error": {"message": "this response_format is not supported"}}')
        return chat(right(request.says) if not is_greeting(request) else "ready")

    with Server(choose) as server:
        assert grade(run, server.url, "--votes", "1", "--sample", "1").returncode == ExitCode.DONE
    (judging,) = read_judgings([run]).values()
    assert judging.response_format == used


def test_keys_that_the_server_refuses_are_left_out_or_renamed(run: Path) -> None:
    def choose(request: Served) -> Script:
        body = json.loads(request.body)
        if "max_tokens" in body:
            message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            error = {"error": {"message": message, "param": "max_tokens"}}
            return whole("400 Bad Request", json.dumps(error).encode())
        if "temperature" in body:
            error = {"error": {"message": "Unsupported value: 'temperature'", "param": "temperature"}}
            return whole("400 Bad Request", json.dumps(error).encode())
        return chat(right(request.says) if not is_greeting(request) else "ready")

    with Server(choose) as server:
        assert grade(run, server.url, "--votes", "1", "--sample", "1").returncode == ExitCode.DONE
        last = json.loads(server.chats[-1].body)
    assert {"max_completion_tokens", "seed"} <= set(last)
    assert not {"max_tokens", "temperature"} & set(last)


def test_a_judge_that_is_not_there_is_exit_3(run: Path) -> None:
    with judge(right) as server:
        url = server.url
    result = grade(run, url)
    assert result.returncode == ExitCode.NO_TARGET
    assert "nothing listens at" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert untouched(run)


def test_a_judge_that_dies_half_way_is_exit_3_and_what_it_answered_is_not_asked_again(run: Path) -> None:
    alive = 100

    def choose(request: Served) -> Script:
        if request.number > alive:
            return (Fin(),)
        return chat("ready" if is_greeting(request) else right(request.says))

    with Server(choose) as server:
        result = grade(run, server.url)
        port = server.port
    assert result.returncode == ExitCode.NO_TARGET
    assert len(result.stderr.splitlines()) == 1
    assert untouched(run)
    assert port
    cached = next((run.parent / "cache" / "judges").iterdir())
    assert len(cached.read_bytes().splitlines()) >= 90


def test_a_judge_that_answers_everything_with_an_error_from_half_way_on_is_exit_3(run: Path) -> None:
    def choose(request: Served) -> Script:
        if request.number > 60:
            return whole("500 Internal Server Error", b'{"error": {"message": "the model has crashed"}}')
        return chat("ready" if is_greeting(request) else right(request.says))

    with Server(choose) as server:
        result = grade(run, server.url)
    assert result.returncode == ExitCode.NO_TARGET
    assert "the model has crashed" in result.stderr
    assert untouched(run)


def test_what_is_in_the_cache_is_not_asked_and_the_cache_is_of_one_judge(run: Path) -> None:
    with judge(right) as server:
        flags = ("--votes", "3", "--sample", "1")
        grade(run, server.url, *flags)
        first = len(server.chats)
        grade(run, server.url, *flags)
        second = len(server.chats) - first
        run_command("grade", run, "--judge", server.url, "--judge-model", "another", *flags)
        third = len(server.chats) - first - second
    assert (first, second, third) == (first, 1, first)  # the greeting alone


def test_a_judge_that_fails_now_and_then_is_asked_again(run: Path) -> None:
    times: dict[bytes, int] = {}

    def choose(request: Served) -> Script:
        times[request.body] = times.get(request.body, 0) + 1
        match times[request.body]:
            case 1:
                return whole("503 Service Unavailable", b"{}")
            case 2:
                return whole("429 Too Many Requests", b"{}", "Retry-After: 0")
        return chat("ready" if is_greeting(request) else right(request.says))

    with Server(choose) as server:
        result = grade(run, server.url, "--votes", "1", "--sample", "1")
    assert (result.returncode, result.stderr) == (ExitCode.DONE, "")
    assert set(times.values()) == {3}


def test_a_question_that_the_server_refuses_has_no_verdict(run: Path) -> None:
    """As one that is too long for it, or against the rules of its host."""

    refused: list[str] = []

    def choose(request: Served) -> Script:
        if "only: clear" in request.says:
            refused[:] = refused or [request.says]
        if request.says in refused:
            return whole("400 Bad Request", b'{"error": {"message": "the context is too long"}}')
        return chat("ready" if is_greeting(request) else right(request.says))

    with Server(choose) as server:
        result = grade(run, server.url, "--votes", "1")
    (judging,) = read_judgings([run]).values()
    assert result.returncode == ExitCode.DONE
    assert (judging.asked, judging.without_verdict, judging.notes) == (64, 1, 63)


def test_another_model_that_answers_in_the_place_of_the_judge_is_exit_3(run: Path) -> None:
    models = whole("200 OK", b'{"object": "list", "data": [{"id": "loaded"}]}')
    with Server(lambda _: chat("ready", model="loaded"), get=lambda _: models) as server:
        result = grade(run, server.url)
    assert result.returncode == ExitCode.NO_TARGET
    assert "loaded answered in its place; ask for one of them: loaded" in result.stderr
    assert untouched(run)


def test_a_judge_that_loads_is_waited_for(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "FIRST_PAUSE_S", 0.001)
    loading, models = whole("503 Service Unavailable", b"x"), whole("200 OK", b'{"data": [{"id": "j"}]}')
    asked: list[Served] = []

    def choose(request: Served) -> Script:
        asked.append(request)
        if len(asked) < 6:  # the first chat and two retries, and one more try
            return loading
        return chat("ready" if is_greeting(request) else right(request.says))

    lists: list[Served] = []

    def get(request: Served) -> Script:
        lists.append(request)
        return models if len(lists) > 2 else loading

    with Server(choose, get=get) as server:
        result = grade(run, server.url, "--votes", "1", "--ready", "60s")
    assert result.returncode == ExitCode.DONE, result.stderr
    waits = [line for line in result.stderr.splitlines() if "waiting up to" in line]
    assert waits == [f"the judge j at {server.url}: the server is still loading (status 503); waiting up to 60 s"]


def test_a_judge_that_still_loads_after_the_wait_is_exit_3(run: Path) -> None:
    with Server(lambda _: whole("503 Service Unavailable", b"x")) as server:
        result = grade(run, server.url, "--ready", "0.01")
    assert result.returncode == ExitCode.NO_TARGET
    assert "waiting up to 0.01 s" in result.stderr
    assert untouched(run)


def test_a_judge_that_never_answers_is_exit_3(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_chat.JudgeChat.__init__, "__defaults__", (200_000_000,))
    with Server((Hang(),)) as server:
        result = grade(run, server.url)
    assert result.returncode == ExitCode.NO_TARGET
    assert "did not answer within 0.2 s" in result.stderr
    assert untouched(run)


def test_a_judge_that_refuses_the_key_is_exit_3_and_the_key_is_nowhere(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-0123456789abcdef0123456789"
    monkeypatch.setenv("LOADGEN_API_KEY", key)
    with Server(lambda _: whole("401 Unauthorized", f'{{"error": "no such key {key}"}}'.encode())) as server:
        result = grade(run, server.url)
        assert server.chats[0].headers["authorization"] == f"Bearer {key}"
    assert result.returncode == ExitCode.NO_TARGET
    assert key not in result.stderr + result.stdout


def test_a_key_that_a_judge_repeats_reaches_no_file(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-0123456789abcdef0123456789"
    monkeypatch.setenv("LOADGEN_API_KEY", key)
    with judge(lambda question: right(question).replace("counted", f"counted with {key}")) as server:
        assert grade(run, server.url, "--votes", "1", "--sample", "1").returncode == ExitCode.DONE
    for path in (*run.parent.rglob("*.jsonl"), *run.parent.rglob("*.json")):
        assert key.encode() not in path.read_bytes(), path


def test_a_judge_that_is_a_candidate_is_marked(run: Path) -> None:
    with judge(right) as server:
        result = run_command("grade", run, "--judge", server.url, "--judge-model", "A", "--votes", "1", "--sample", "1")
    assert result.returncode == ExitCode.DONE
    assert "A is one of the candidates" in result.stderr
    (judging,) = read_judgings([run]).values()
    assert judging.self_judged


def test_too_few_prompts_for_the_test_are_one_line(tmp_path: Path) -> None:
    result = grade(write_run(tmp_path / "small", MODELS, prompts=7), "http://127.0.0.1:1/v1")
    assert result.returncode == ExitCode.BAD_INPUT
    assert "tested first, on 8 prompts" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--judge", "http://127.0.0.1:1/v1"), "add --judge-model NAME"),
        (("--judge", "http://127.0.0.1:1/v1", "--judge-model", " "), "printable characters"),
        (("--judge", "http://127.0.0.1:1/v1", "--judge-model", "a\tb"), "printable characters"),
        (("--judge", "http://127.0.0.1:1/v1", "--judge-model", "j", "--votes", "2"), "give an odd number"),
        (("--judge", "http://127.0.0.1:1/v1", "--judge-model", "j", "--votes", "0"), "--votes"),
        (("--judge", "http://127.0.0.1:1/v1", "--judge-model", "j", "--votes", "101"), "--votes"),
        (("--judge", "ftp://somewhere", "--judge-model", "j"), "neither http nor https"),
        (("--judge", "http://me:hunter22secret@host/v1", "--judge-model", "j"), "would be written to files"),
        (("--judge", "http://127.0.0.1:1/v1", "--judge-model", "j", "--by", "ana"), "leave one of them out"),
        (("--judge", "http://127.0.0.1:1/v1", "--judge-model", "j", "--status"), "one of them at a time"),
        (("--judge-model", "j"), "--judge-model goes with --judge URL"),
        (("--by", "ana", "--pairs"), "--pairs goes with --judge URL"),
        (("--by", "ana", "--votes", "5"), "--votes goes with --judge URL"),
    ],
)
def test_wrong_flags_are_one_line(run: Path, flags: tuple[str, ...], message: str) -> None:
    result = run_command("grade", run, *flags)
    assert result.returncode == ExitCode.BAD_INPUT
    assert message in result.stderr
    assert "hunter22secret" not in result.stderr
    assert len(result.stderr.splitlines()) == 1
