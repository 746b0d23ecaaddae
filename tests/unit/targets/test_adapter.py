"""Adapters: how they are named and found, what they may yield, and what becomes of an answer, whatever they do."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.clock import now_ns
from loadgen.errors import InputError
from loadgen.record import Reply
from loadgen.scenario.file import load_scenario
from loadgen.targets.adapter.chunks import AdapterAnswer, as_whole, reply_of
from loadgen.targets.adapter.in_process import InProcess, Question, question_of
from loadgen.targets.adapter.target import importable, resolve
from loadgen.targets.adapter.threads import WorkerThreads
from loadgen.targets.registry import target_name
from loadgen.wire.exchange import Deadlines, Failure

PATIENT = Deadlines(request_ns=60_000_000_000)
HASTY = Deadlines(request_ns=1_000_000)
Generate = Callable[..., Any]

# Naming one in a scenario


def complaint(folder: Path, model: str) -> str:
    path = folder / "x.toml"
    path.write_text(f'name = "x"\nprompts = ["p"]\nmodels = [{model}]\n', encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_scenario(path)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            "{ name = 'm', target = 'foo' }",
            'models[0].target: "foo" is not one of llamacpp, foundry, openai, or python:package.module:Adapter; '
            "write one of them",
        ),
        (
            "{ name = 'm', target = 'founrdy' }",
            'models[0].target: "founrdy" is not one of llamacpp, foundry, openai, or python:package.module:Adapter; '
            'did you mean "foundry"?',
        ),
        (
            "{ name = 'm', target = 'python:module' }",
            'models[0].target: "python:module" is not one of llamacpp, foundry, openai, or '
            'python:package.module:Adapter; write "python:package.module:Adapter"',
        ),
        (
            "{ name = 'm', target = 'python:a:B', url = 'http://h/v1' }",
            'models[0].url: target "python:a:B" calls an adapter in this process; '
            'leave url out, or write target = "openai"',
        ),
        (
            "{ name = 'm', options = { a = 1 } }",
            "models[0].options: only an adapter uses it, and the model is served elsewhere; "
            'leave it out, or write target = "python:package.module:Adapter"',
        ),
        (
            "{ name = 'm', target = 'python:a:B' }, { name = 'm', target = 'python:c:B' }",
            "models[1]: the same model as models[0]; leave one out, or rename it",
        ),
    ],
)
def test_a_target_that_cannot_be_meant_is_refused_with_its_mend(tmp_path: Path, model: str, said: str) -> None:
    assert complaint(tmp_path, model) == said


def test_a_folder_for_modules_that_is_not_there_is_refused(tmp_path: Path) -> None:
    said = complaint(tmp_path, "{ name = 'm', target = 'python:a:B', python_path = 'nowhere' }")
    assert said.startswith('models[0].python_path: no folder "nowhere" at ')


def test_modules_are_looked_for_beside_the_scenario_and_records_name_the_class(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('name = "x"\nprompts = ["p"]\nmodels = [{ name = "m", target = "python:a.b:C" }]\n')
    model = load_scenario(path).scenario.models[0]
    assert (model.python_path, target_name(model)) == (str(tmp_path), "C")


# Finding it


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Writes a module of its own into a folder from which it can be imported; returns its name."""
    names: list[str] = []

    def write(text: str) -> str:
        names.append(f"adapter_{tmp_path.name}_{len(names)}".replace("-", "_").lower())
        (tmp_path / f"{names[-1]}.py").write_text(text, encoding="utf-8")
        return names[-1]

    with importable(str(tmp_path)):
        yield write
    for name in names:
        sys.modules.pop(name, None)
    assert str(tmp_path) not in sys.path


GOOD = """
class Good:
    def __init__(self): self.made = True
    def generate(self, messages, **sampling): yield "a"
class Outer:
    class Inner(Good): pass
def make(): return Good()
ready = Good()
"""


@pytest.mark.parametrize("path", ["Good", "Outer.Inner", "make", "ready"])
def test_a_class_is_made_a_function_called_and_an_object_taken_as_it_is(
    module: Callable[[str], str], path: str
) -> None:
    assert resolve(f"python:{module(GOOD)}:{path}").made


@pytest.mark.parametrize(
    ("text", "path", "said"),
    [
        ("class A: pass", "B", "has no B, it has A; name the adapter's class"),
        ("import math", "B", "has no B, it has no class; name the adapter's class"),
        ("class A: pass", "A", "A has no generate; write `def generate(self, messages, **sampling): yield text`"),
        ("class A:\n  generate = 3", "A", "A.generate is not a method; make it one, or rename it"),
        ("class A:\n  def __init__(self, x): pass", "A", "it is called without arguments; take options in `load`"),
        ("import nowhere_at_all", "A", "needs nowhere_at_all, which is not installed; install it"),
        ("1 / 0", "A", "failed: ZeroDivisionError: division by zero; fix "),
        ("raise SystemExit(3)", "A", "failed: SystemExit: 3; fix "),
        ("def", "A", "failed: SyntaxError: invalid syntax"),
    ],
)
def test_what_cannot_be_an_adapter_is_refused_in_one_line(
    module: Callable[[str], str], text: str, path: str, said: str
) -> None:
    target = f"python:{module(text)}:{path}"
    with pytest.raises(InputError) as caught:
        resolve(target)
    assert str(caught.value).startswith(f"{target}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere_at_all", "nowhere_at_all.within", "json.nowhere_at_all"])
def test_a_module_that_is_not_there_is_named_with_where_it_was_looked_for(name: str) -> None:
    with pytest.raises(InputError, match=r'no module "[\w.]*nowhere_at_all" in /some, and none installed'):
        resolve(f"python:{name}:A", "/some")


# Reading what it yields


def answer_of(*pieces: object, failure: Failure | None = None) -> AdapterAnswer:
    """Pieces that came 10 ns apart, the first at 110; the call was at 100, the run began at 50."""
    stamped = [(110 + 10 * i, piece) for i, piece in enumerate(pieces)]
    ended = 110 + 10 * len(pieces)
    return AdapterAnswer(
        dispatched_ns=90,
        called_ns=100,
        chunks=stamped,
        exhausted_ns=None if failure else ended,
        failure=failure,
        ended_ns=ended,
    )


def read(*pieces: object, failure: Failure | None = None, streams: bool = True) -> Reply:
    reply = reply_of(answer_of(*pieces, failure=failure), epoch_ns=50)
    return reply if streams else as_whole(reply)


def test_each_text_is_a_token_bearing_event_with_its_own_stamp() -> None:
    reply = read("a", "", "b")
    assert (reply.outcome, reply.text, reply.stamps_ns) == ("ok", "ab", (60, 80))
    assert (reply.dispatched_ns, reply.sent_ns, reply.written_ns, reply.end_ns) == (40, 50, 50, 90)
    assert (reply.output_tokens, reply.token_source, reply.stamp_source) == (2, "events", "user")


def test_reasoning_is_a_token_and_not_text() -> None:
    reply = read({"reasoning": "hm"}, "a")
    assert (reply.text, reply.stamps_ns, reply.first_visible_ns) == ("a", (60, 70), 70)


def test_usage_goes_before_the_pieces_own_counts_and_these_before_their_number() -> None:
    counted = ({"text": "ab", "tokens": 2}, {"text": "c", "tokens": 1})
    usage = {"usage": {"prompt_tokens": 7, "completion_tokens": 9}}
    assert (read(*counted).output_tokens, read(*counted).tokens_per_event) == (3, (2, 1))
    assert (read(*counted).token_source, read(*counted, usage).token_source) == ("usage", "usage")
    assert (read(*counted, usage).output_tokens, read(*counted, usage).prompt_tokens) == (9, 7)
    assert (read(*counted, "d").output_tokens, read(*counted, "d").tokens_per_event) == (3, None)


def test_after_a_finish_reason_nothing_spoils_an_answer_and_only_usage_counts() -> None:
    usage = {"usage": {"completion_tokens": 4}}
    reply = read("a", {"finish_reason": "length"}, usage, "b", failure=Failure("stream_error", "boom"))
    assert (reply.outcome, reply.finish_reason, reply.text, reply.output_tokens) == ("ok", "length", "a", 4)
    assert (reply.end_ns, reply.last_byte_ns) == (70, 100)


def test_without_text_an_answer_is_empty_and_without_an_end_it_is_what_ended_it() -> None:
    assert read().outcome == "empty"
    assert read({"usage": {"completion_tokens": 3}}).outcome == "empty"
    failed = read("a", failure=Failure("timeout", "waiting"))
    assert (failed.outcome, failed.detail, failed.stamps_ns, failed.end_ns) == ("timeout", "waiting", (60,), 70)


def test_an_answer_that_was_asked_for_whole_has_no_stamps_and_only_tokens_that_are_told() -> None:
    whole = read("a", "b", streams=False)
    assert (whole.outcome, whole.text, whole.stamps_ns, whole.output_tokens) == ("ok", "ab", (), None)
    assert read("a", {"usage": {"completion_tokens": 2}}, streams=False).output_tokens == 2


@pytest.mark.parametrize(
    ("piece", "said"),
    [
        (b"a", "piece 2: a bytes, where a text or a dict is asked for"),
        (None, "piece 2: None, where a text or a dict is asked for"),
        ({"txt": "a"}, "piece 2: unknown key 'txt'; the keys are text, reasoning, tokens, usage, finish_reason"),
        ({"text": 3}, "piece 2: text is an int, not a text"),
        ({"text": "a", "tokens": -1}, "piece 2: tokens is not a whole number of 0 or more"),
        ({"usage": {"completion_tokens": 1.5}}, "piece 2: usage.completion_tokens is not a whole number of 0 or more"),
        ({"usage": 3}, "piece 2: usage is an int, not a dict"),
    ],
)
def test_a_piece_that_is_neither_text_nor_a_table_of_these_keys_is_malformed(piece: object, said: str) -> None:
    reply = read("a", piece, "b")
    assert (reply.outcome, reply.detail, reply.stamps_ns) == ("malformed", said, (60,))


def test_an_emoji_cut_in_two_is_one_character() -> None:
    assert read("\ud83d", "\ude00").text == "\U0001f600"
    assert read("\ud83d").text == "�"


@given(st.lists(st.text(max_size=3)), st.booleans())
def test_the_text_is_the_pieces_joined_and_has_a_stamp_for_each_that_is_not_empty(
    texts: list[str], as_tables: bool
) -> None:
    reply = read(*({"text": text} if as_tables else text for text in texts))
    spoken = [text for text in texts if text]
    assert len(reply.stamps_ns) == len(spoken)
    assert sorted(set(reply.stamps_ns)) == list(reply.stamps_ns)
    assert reply.text == ("".join(spoken) if spoken else msgspec.UNSET)
    assert reply.outcome == ("ok" if spoken else "empty")


# Asking it


class Fake:
    """An adapter of one function."""

    def __init__(self, generate: Generate) -> None:
        self.generate = generate


def ask(adapter: Any, deadlines: Deadlines = PATIENT, **more: Any) -> Reply:
    """One question, asked in an event loop of its own."""
    workers = WorkerThreads("test")

    async def asked() -> Reply:
        in_process = InProcess(adapter, workers)
        question = Question([{"role": "user", "content": "Hi"}], {"max_tokens": 4}, deadlines, **more)
        return await in_process.send(question, now_ns(), epoch_ns=0, keep_text=True)

    try:
        return asyncio.run(asked())
    finally:
        workers.close()


def say(*pieces: object) -> Fake:
    return Fake(lambda messages, **sampling: iter(pieces))


def say_async(*pieces: object) -> Fake:
    async def generate(messages: object, **sampling: object) -> AsyncIterator[object]:
        for piece in pieces:
            yield piece

    return Fake(generate)


@pytest.mark.parametrize("adapter", [say("a", "b"), say_async("a", "b")], ids=["sync", "async"])
def test_an_answer_is_heard_to_its_end_with_stamps_in_order(adapter: Fake) -> None:
    reply = ask(adapter)
    moments = [reply.dispatched_ns, reply.sent_ns, *reply.stamps_ns, reply.end_ns]
    assert (reply.outcome, reply.text, len(reply.stamps_ns)) == ("ok", "ab", 2)
    assert moments == sorted(moment for moment in moments if moment is not None)


def test_an_ordinary_generate_runs_in_a_thread_and_an_asynchronous_one_in_the_loop() -> None:
    def generate(messages: object, **sampling: object) -> Iterator[str]:
        yield threading.current_thread().name

    async def generate_async(messages: object, **sampling: object) -> AsyncIterator[str]:
        yield threading.current_thread().name

    async def returns_async(messages: object, **sampling: object) -> AsyncIterator[str]:
        return generate_async(messages)

    assert ask(Fake(generate)).text == "test-1"
    assert ask(Fake(generate_async)).text == threading.current_thread().name
    assert ask(Fake(returns_async)).text == threading.current_thread().name


def test_generate_is_given_the_messages_and_the_sampling_and_cannot_change_the_plan() -> None:
    seen: list[Any] = []

    def generate(messages: list[dict[str, str]], **sampling: object) -> Iterator[str]:
        seen.append(([dict(message) for message in messages], sampling))
        messages[0]["content"] = "changed"
        yield "a"

    body = {"model": "m", "stream": True, "stream_options": {}, "max_tokens": 4, "seed": 1}
    body["messages"] = [{"role": "user", "content": "Hi"}]
    question = question_of(body, PATIENT)
    workers = WorkerThreads("test")

    async def twice() -> None:
        in_process = InProcess(Fake(generate), workers)
        for _ in range(2):
            await in_process.send(question, now_ns(), epoch_ns=0)

    asyncio.run(twice())
    workers.close()
    assert seen == [([{"role": "user", "content": "Hi"}], {"max_tokens": 4, "seed": 1})] * 2


def failing(*pieces: str) -> Fake:
    def generate(messages: object, **sampling: object) -> Iterator[str]:
        yield from pieces
        raise LookupError("no such\nthing")

    return Fake(generate)


def failing_async(*pieces: str) -> Fake:
    async def generate(messages: object, **sampling: object) -> AsyncIterator[str]:
        for piece in pieces:
            yield piece
        raise LookupError("no such\nthing")

    return Fake(generate)


@pytest.mark.parametrize("fail", [failing, failing_async], ids=["sync", "async"])
@pytest.mark.parametrize("pieces", [(), ("a",)], ids=["at once", "after a piece"])
def test_an_exception_is_a_stream_error_in_one_line_and_what_had_come_is_kept(
    fail: Callable[..., Fake], pieces: tuple[str, ...]
) -> None:
    reply = ask(fail(*pieces))
    assert (reply.outcome, reply.detail) == ("stream_error", "LookupError: no such thing")
    assert len(reply.stamps_ns) == len(pieces)


async def returns_text(messages: object, **sampling: object) -> str:
    return "hello"


def returns_a_coroutine(messages: object, **sampling: object) -> object:
    return returns_text(messages)


@pytest.mark.parametrize(
    ("generate", "said"),
    [
        (lambda messages, **sampling: "hello", "generate returned str, where it must yield pieces of text one by one"),
        (lambda messages, **sampling: None, "generate returned None, where it must yield pieces of text one by one"),
        (returns_text, "generate returned str, where it must yield pieces of text one by one"),
        (returns_a_coroutine, "generate returned something asynchronous, and is not: write `async def generate`"),
    ],
)
def test_what_cannot_be_heard_piece_by_piece_is_not_streamed(generate: Generate, said: str) -> None:
    reply = ask(Fake(generate))
    assert (reply.outcome, reply.detail) == ("not_streamed", said)


def test_where_an_answer_is_asked_for_whole_a_text_will_do() -> None:
    assert ask(Fake(lambda messages, **sampling: "hello"), streams=False).text == "hello"


def test_a_generate_that_does_not_take_the_sampling_says_which() -> None:
    reply = ask(Fake(lambda messages: iter("a")))
    assert reply.outcome == "stream_error"
    assert "unexpected keyword argument 'max_tokens'" in str(reply.detail)


def test_tokens_are_counted_by_the_adapter_only_where_nothing_told_them() -> None:
    for pieces, expected in ((("a b", "c"), 7), (("a", {"usage": {"completion_tokens": 3}}), 3)):
        adapter = say(*pieces)
        vars(adapter)["count_tokens"] = lambda text: 5 + len(text) // 2
        reply = ask(adapter)
        assert (reply.output_tokens, reply.token_source, reply.outcome) == (expected, "usage", "ok")


@pytest.mark.parametrize("count", [lambda text: 1 / 0, lambda text: -1], ids=["raises", "negative"])
def test_a_count_that_fails_spoils_no_answer_and_is_told(count: Callable[[str], int]) -> None:
    adapter = say("a")
    vars(adapter)["count_tokens"] = count
    reply = ask(adapter)
    assert (reply.outcome, reply.output_tokens, reply.token_source) == ("ok", 1, "events")
    assert str(reply.detail).startswith("count_tokens: ")


# Giving up


class Stuck:
    """Yields one piece, and the next when it is let go."""

    def __init__(self, *, first: bool = True) -> None:
        self.go = threading.Event()
        self.began = threading.Semaphore(0)
        self.closed = threading.Event()
        self._first = first

    def generate(self, messages: object, **sampling: object) -> Iterator[str]:
        try:
            if self._first:
                yield "a"
            self.began.release()
            self.go.wait(20)
            yield "b"
            yield "never"
        finally:
            self.closed.set()


@pytest.mark.parametrize(
    ("deadlines", "first", "said"),
    [
        (HASTY, False, "waiting for first token, request deadline 0.001 s"),
        (Deadlines(60_000_000_000, first_token_ns=1_000_000), False, "waiting for first token, 0.001 s"),
        (Deadlines(60_000_000_000, next_token_ns=1_000_000), True, "waiting for next token, 0.001 s"),
    ],
)
def test_a_stuck_generator_ends_its_request_as_timeout_and_is_closed_when_it_comes_back(
    deadlines: Deadlines, first: bool, said: str
) -> None:
    adapter = Stuck(first=first)
    reply = ask(adapter, deadlines)
    assert (reply.outcome, reply.detail, len(reply.stamps_ns)) == ("timeout", said, int(first))
    assert not adapter.closed.is_set()
    # On a busy machine the deadline may pass before the call has begun; then there is nothing to close.
    began = first or adapter.began.acquire(timeout=1)
    adapter.go.set()
    assert not began or adapter.closed.wait(20)


def test_a_stuck_call_takes_no_thread_from_the_next_and_is_counted() -> None:
    adapter, workers = Stuck(), WorkerThreads("test")

    async def scene() -> tuple[Reply, Reply, int, int]:
        in_process = InProcess(adapter, workers)
        first = await in_process.send(Question([], {}, HASTY), now_ns(), epoch_ns=0)
        stuck = in_process.running
        adapter.go.set()
        second = await in_process.send(Question([], {}, PATIENT), now_ns(), epoch_ns=0)
        assert adapter.closed.wait(20)
        return first, second, stuck, await in_process.leave()

    first, second, stuck, left = asyncio.run(scene())
    workers.close()
    assert (first.outcome, second.outcome, stuck, left) == ("timeout", "ok", 1, 0)


def test_given_up_by_the_person_everything_in_flight_is_cancelled_with_its_stamps() -> None:
    adapter, workers = Stuck(), WorkerThreads("test")

    async def scene() -> list[Reply]:
        in_process = InProcess(adapter, workers)
        asked = [
            asyncio.ensure_future(in_process.send(Question([], {}, PATIENT), now_ns(), epoch_ns=0, keep_text=True))
            for _ in range(3)
        ]
        await asyncio.sleep(0)
        assert in_process.in_flight == 3
        assert all(adapter.began.acquire(timeout=20) for _ in range(3))
        in_process.abandon()
        replies = list(await asyncio.gather(*asked))
        assert in_process.in_flight == 0
        return replies

    replies = asyncio.run(scene())
    adapter.go.set()
    workers.close()
    assert [(r.outcome, r.detail, r.text) for r in replies] == [("cancelled", "stopped by the user", "a")] * 3


def test_an_asynchronous_generator_that_is_late_is_cancelled_and_closed() -> None:
    closed: list[str] = []

    async def generate(messages: object, **sampling: object) -> AsyncIterator[str]:
        try:
            yield "a"
            await asyncio.Event().wait()
        finally:
            closed.append("closed")

    reply = ask(Fake(generate), HASTY)
    assert (reply.outcome, len(reply.stamps_ns), closed) == ("timeout", 1, ["closed"])


def test_a_thread_that_has_come_back_is_used_again() -> None:
    workers = WorkerThreads("test")

    async def scene() -> list[str]:
        return [await workers.call(lambda: threading.current_thread().name) for _ in range(5)]

    names = asyncio.run(scene())
    workers.close()
    assert names == ["test-1"] * 5
