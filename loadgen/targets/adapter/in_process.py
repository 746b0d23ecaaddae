"""Calls an adapter in this process, and stamps the chunks that it yields. Knows no scenario and no statistics.

An ordinary `generate` runs in a thread of its own. Each chunk is stamped in that thread as soon as it is yielded, and
the event loop hears of the answer only at its end. So neither delays the other, except through the interpreter's lock.
An asynchronous `generate` runs in the event loop, and is stamped there.
"""

import asyncio
import contextlib
import copy
import inspect
import sys
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct

from loadgen.clock import now_ns
from loadgen.record import JsonObject, Outcome, Reply
from loadgen.targets.adapter.chunks import AdapterAnswer, as_whole, is_count, reply_of
from loadgen.targets.adapter.threads import WorkerThreads, call_in_loop
from loadgen.wire.client import describe
from loadgen.wire.exchange import Deadlines, Failure

CHECK_NS: Final = 50_000_000
"""How often an answer with a deadline for each token is checked."""
SWITCH_S: Final = 0.0005
"""How long a thread may keep the interpreter's lock while another waits for it to stamp a chunk."""
SHUTDOWN_TIMEOUT_S: Final = 5.0
"""How long calls that were given up may take to return before the model is unloaded."""
_NOT_SAMPLING: Final = ("model", "messages", "stream", "stream_options")


class Question(Struct, frozen=True):
    """The arguments of `generate`."""

    messages: list[JsonObject]
    sampling: JsonObject
    """With the keys of an OpenAI request: max_tokens, temperature, seed, …"""
    deadlines: Deadlines
    streams: bool = True
    """True if each chunk of the answer has a stamp; False if the answer counts as not streamed."""


def question_of(body: JsonObject, deadlines: Deadlines) -> Question:
    """The question in the body of a chat request."""
    sampling = {key: value for key, value in body.items() if key not in _NOT_SAMPLING}
    streams = bool(body.get("stream", False))
    if not streams:
        deadlines = msgspec.structs.replace(deadlines, first_token_ns=None, next_token_ns=None)
    return Question(body.get("messages", []), sampling, deadlines, streams)


class _Call:
    """One call of `generate`. The thread in which it runs writes this; the event loop reads it."""

    __slots__ = ("called_ns", "chunks", "dispatched_ns", "done", "exhausted_ns", "failure", "given_up", "over", "task")

    def __init__(self, dispatched_ns: int, done: "asyncio.Future[None]") -> None:
        self.dispatched_ns = dispatched_ns
        self.done = done
        self.called_ns: int | None = None
        self.chunks: list[tuple[int, object]] = []
        self.exhausted_ns: int | None = None
        self.failure: Failure | None = None
        self.over = False
        self.given_up: Failure | None = None
        self.task: asyncio.Task[None] | None = None

    def fail(self, outcome: Outcome, detail: str) -> None:
        self.failure = Failure(outcome, detail)

    def is_given_up(self) -> bool:
        """Whether loadgen has stopped listening."""
        return self.given_up is not None

    def finish(self) -> None:
        """Wake the task that waits for the answer. Called in the event loop."""
        if not self.done.done():
            self.done.set_result(None)

    def give_up(self, outcome: Outcome, detail: str) -> None:
        """Stop listening. The generating thread notices that at its next chunk."""
        if not self.over and self.given_up is None:
            self.given_up = Failure(outcome, detail)
            if self.task is not None:
                self.task.cancel()
            self.finish()

    def answer(self) -> AdapterAnswer:
        """The results so far."""
        ended_ns, chunks = now_ns(), self.chunks.copy()  # a thread may still add to it
        given_up = self.given_up
        return AdapterAnswer(
            dispatched_ns=self.dispatched_ns,
            called_ns=self.called_ns,
            chunks=chunks,
            exhausted_ns=None if given_up is not None else self.exhausted_ns,
            failure=given_up or self.failure,
            ended_ns=ended_ns,
        )


class InProcess:
    """A loaded adapter. Made and used in one event loop."""

    def __init__(self, adapter: Any, workers: WorkerThreads) -> None:
        self._generate: Callable[..., Any] = adapter.generate
        self._count_tokens: Callable[[str], Any] | None = getattr(adapter, "count_tokens", None)
        self._workers = workers
        self._in_flight: set[_Call] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.in_loop = inspect.isasyncgenfunction(self._generate) or inspect.iscoroutinefunction(self._generate)

    @property
    def in_flight(self) -> int:
        """How many requests are being answered now."""
        return len(self._in_flight)

    @property
    def running(self) -> int:
        """How many calls have not returned, given up or not."""
        return self._workers.busy + len(self._tasks)

    def abandon(self) -> None:
        """Give up everything in flight, as `cancelled`."""
        for call in list(self._in_flight):
            call.give_up("cancelled", "stopped by the user")

    async def leave(self) -> int:
        """Wait a while for calls that were given up to return; returns how many have not."""
        if self.in_loop:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=SHUTDOWN_TIMEOUT_S)
            return self.running
        for _ in range(round(SHUTDOWN_TIMEOUT_S / 0.05)):
            if not self.running:
                break
            await asyncio.sleep(0.05)
        return self.running

    async def send(self, question: Question, dispatched_ns: int, *, epoch_ns: int, keep_text: bool = False) -> Reply:
        """Call `generate`, and wait for the answer's end, whatever ends it. Never raises for what an adapter does."""
        call = _Call(dispatched_ns, asyncio.get_running_loop().create_future())
        self._in_flight.add(call)
        try:
            self._begin(call, question)
            await _until_over(call, question.deadlines)
        except asyncio.CancelledError:
            call.give_up("cancelled", "the program is going down")
            raise
        finally:
            self._in_flight.discard(call)
        reply = reply_of(call.answer(), epoch_ns=epoch_ns)
        reply = await self._count(reply if question.streams else as_whole(reply))
        return reply if keep_text else msgspec.structs.replace(reply, text=UNSET)

    def _begin(self, call: _Call, question: Question) -> None:
        if self.in_loop:
            call.task = asyncio.get_running_loop().create_task(self._listen_in_loop(call, question))
            self._tasks.add(call.task)
            call.task.add_done_callback(self._tasks.discard)
            return
        loop = asyncio.get_running_loop()
        try:
            self._workers.start(lambda: self._listen(call, question), lambda: call_in_loop(loop, call.finish))
        except RuntimeError as error:
            call.fail("stream_error", describe(error))
            call.finish()

    def _listen(self, call: _Call, question: Question) -> None:
        """Read an answer to its end, and stamp its chunks. Runs in a thread."""
        try:
            messages = copy.deepcopy(question.messages)  # an adapter may change them, and the next request has them too
            if call.is_given_up():
                return
            call.called_ns = now_ns()
            stream = self._generate(messages, **question.sampling)
            if isinstance(stream, str) and not question.streams:
                stream = (stream,)
            if isinstance(stream, str | bytes) or not isinstance(stream, Iterable):
                call.fail("not_streamed", _not_streamed(stream))
                return
            chunks = iter(stream)
            try:
                for chunk in chunks:
                    stamp_ns = now_ns()  # first, before anything that costs
                    if call.is_given_up():
                        return
                    call.chunks.append((stamp_ns, chunk))
                call.exhausted_ns = now_ns()
            finally:
                # A generator that is given up is closed at once, not when garbage is collected, because it may occupy
                # the model's only slot.
                if hasattr(chunks, "close"):
                    chunks.close()
        except BaseException as error:  # noqa: BLE001  whatever an adapter does becomes its request's outcome
            call.fail("stream_error", error_line(error))
        finally:
            call.over = True

    async def _listen_in_loop(self, call: _Call, question: Question) -> None:
        """Read an answer to its end, and stamp its chunks. Runs in the event loop."""
        try:
            messages = copy.deepcopy(question.messages)
            call.called_ns = now_ns()
            stream = self._generate(messages, **question.sampling)
            if inspect.isawaitable(stream):
                stream = await stream
            if not isinstance(stream, AsyncIterable):
                call.fail("not_streamed", _not_streamed(stream))
                return
            chunks = aiter(stream)
            try:
                async for chunk in chunks:
                    stamp_ns = now_ns()
                    if call.is_given_up():
                        return
                    call.chunks.append((stamp_ns, chunk))
                call.exhausted_ns = now_ns()
            finally:
                if hasattr(chunks, "aclose"):
                    await chunks.aclose()
        except asyncio.CancelledError:
            if call.given_up is None:
                raise
        except Exception as error:  # noqa: BLE001  as above
            call.fail("stream_error", error_line(error))
        finally:
            call.over = True
            call.finish()

    async def _count(self, reply: Reply) -> Reply:
        """The reply with its tokens counted by the adapter, if no chunk says how many there are."""
        if self._count_tokens is None or reply.token_source != "events" or not isinstance(reply.text, str):
            return reply
        count: Any = None
        fault = "not a whole number of 0 or more"
        try:
            count = await call_adapter(self._workers, self._count_tokens, reply.text)
        except Exception as error:  # noqa: BLE001  the answer is good without it
            fault = error_line(error)
        if is_count(count):
            return msgspec.structs.replace(reply, output_tokens=count, token_source="usage")
        return msgspec.structs.replace(reply, detail=reply.detail or f"count_tokens: {fault}")


async def call_adapter(workers: WorkerThreads, function: Callable[..., Any], *given: Any, **more: Any) -> Any:
    """Call a function of an adapter and return its result: an asynchronous one in the loop, any other in a thread."""
    if inspect.iscoroutinefunction(function):
        return await function(*given, **more)
    returned = await workers.call(lambda: function(*given, **more))
    return await returned if inspect.isawaitable(returned) else returned


@contextlib.contextmanager
def short_switches() -> Iterator[None]:
    """While the context lasts, a thread that waits for the interpreter's lock gets it ten times sooner."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SWITCH_S))
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def error_line(error: BaseException) -> str:
    """One line about an exception of an adapter, with its type."""
    text, kind = describe(error), type(error).__name__
    return text if text == kind else f"{kind}: {text}"


async def _until_over(call: _Call, limits: Deadlines) -> None:
    """Wait until an answer is over. Give it up if its deadline passes."""
    while not call.done.done():
        due_ns, waited_for = _due(call, limits)
        wait_ns = due_ns - now_ns()
        if wait_ns <= 0 and not call.over:
            call.give_up("timeout", waited_for)
            return
        if limits.next_token_ns is not None:
            wait_ns = min(wait_ns, CHECK_NS)  # while we sleep, tokens may come, and then none
        await asyncio.wait((call.done,), timeout=max(wait_ns, 1_000_000) / 1e9)


def _due(call: _Call, limits: Deadlines) -> tuple[int, str]:
    """When the next deadline passes, and what the request waits for then."""
    last_ns = call.chunks[-1][0] if call.chunks else None
    awaited = "first token" if last_ns is None else "next token"
    waited_for = f"waiting for {awaited}, request deadline {limits.request_ns / 1e9:g} s"
    due = [(call.dispatched_ns + limits.request_ns, waited_for)]
    if last_ns is None and limits.first_token_ns is not None:
        waited_for = f"waiting for first token, {limits.first_token_ns / 1e9:g} s"
        due.append((call.dispatched_ns + limits.first_token_ns, waited_for))
    if last_ns is not None and limits.next_token_ns is not None:
        due.append((last_ns + limits.next_token_ns, f"waiting for next token, {limits.next_token_ns / 1e9:g} s"))
    return min(due)


def _not_streamed(returned: object) -> str:
    if inspect.isawaitable(returned) or isinstance(returned, AsyncIterable):
        if inspect.iscoroutine(returned):
            returned.close()
        return "generate returned something asynchronous, and is not: write `async def generate`"
    kind = "None" if returned is None else f"{type(returned).__name__}"
    return f"generate returned {kind}, where it must yield pieces of text one by one"
