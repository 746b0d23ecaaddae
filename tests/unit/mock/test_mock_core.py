"""Facts about the scripted server without its sockets: what it sends and when, to the ns, in virtual time."""

import hashlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from loadgen.mock import Exponential, FixedTime, Freeze, Script, Truth, Uniform, parse_fault
from loadgen.mock.answer import BROKEN, HELD, SENT, Peer
from loadgen.mock.core import Core
from loadgen.wire.chat_stream import decode
from tests.virtual import START_NS

MS = 1_000_000
STEADY = Script(ttft_s=FixedTime(0.2), itl_s=FixedTime(0.05), tokens=FixedTime(4))


class Wire:
    """A connection that writes down what it is given, and when."""

    def __init__(self, stage: "Stage") -> None:
        self._stage = stage
        self.sends: list[tuple[int, bytes]] = []
        self.ended: tuple[int, str] | None = None
        self.result = SENT

    def send(self, data: bytes) -> int:
        assert self.ended is None, "sent after the end"
        if self.result != BROKEN:
            self.sends.append((self._stage.at_ns, data))
        return self.result

    def close(self) -> None:
        self.ended = (self._stage.at_ns, "closed")

    def reset(self) -> None:
        self.ended = (self._stage.at_ns, "reset")

    @property
    def bytes(self) -> bytes:
        return b"".join(data for _, data in self.sends)


class Stage:
    """A core in virtual time, which jumps from one due moment to the next. `at_ns` counts from the beginning."""

    def __init__(self, script: Script) -> None:
        self.at_ns = 0
        self.ended: list[Truth] = []
        self.core = Core(script, lambda: START_NS + self.at_ns, 1_700_000_000, self.ended.append)

    def connect(self) -> tuple[Peer, Wire]:
        wire = Wire(self)
        return self.core.on_connect(wire), wire

    def ask(self, peer: Peer, **changes: Any) -> None:
        self.core.on_data(peer, chat(**changes), START_NS + self.at_ns)

    def asked(self, **changes: Any) -> Wire:
        peer, wire = self.connect()
        self.ask(peer, **changes)
        return wire

    def play(self, until_ns: int = 1 << 62) -> None:
        """Until nothing is due any more, or time is up."""
        while (next_ns := self.core.run_due()) is not None and next_ns - START_NS <= until_ns:
            self.at_ns = max(self.at_ns, next_ns - START_NS)
        if until_ns < 1 << 62:
            self.at_ns = until_ns

    def truth(self, number: int = 1) -> Truth:
        return next(truth for truth in self.ended if truth.number == number)


def chat(**changes: Any) -> bytes:
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "one two three"}], **changes}
    data = msgspec.json.encode({key: value for key, value in body.items() if value is not None})
    return b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data)


def body_of(data: bytes) -> bytes:
    """The body of one chunked answer, as far as its chunks are whole."""
    head, _, rest = data.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        if int(size, 16) == 0:
            assert rest == b"\r\n"
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return body


def offsets_ms(moments_ns: list[int]) -> list[float]:
    return [(moment - START_NS) / MS for moment in moments_ns]


def played(script: Script, **changes: Any) -> tuple[Wire, Truth]:
    """One chat, to its end."""
    stage = Stage(script)
    wire = stage.asked(**changes)
    stage.play()
    return wire, stage.truth()


# Times


def test_each_token_is_sent_when_it_is_due() -> None:
    wire, truth = played(STEADY)
    assert [at / MS for at, _ in wire.sends] == [0, 200, 250, 300, 350]
    assert offsets_ms(truth.planned_ns) == offsets_ms(truth.stamps_ns) == [200, 250, 300, 350]
    assert truth.end_ns == truth.stamps_ns[-1] == truth.sent_ns
    assert wire.ended is None


def test_lateness_does_not_add_up_and_is_known() -> None:
    stage = Stage(STEADY)
    stage.asked()
    stage.play(260 * MS)
    stage.at_ns = 320 * MS  # it was away
    stage.play()
    truth = stage.truth()
    assert offsets_ms(truth.planned_ns) == [200, 250, 300, 350]
    assert offsets_ms(truth.stamps_ns) == [200, 250, 320, 350]
    assert stage.core.account_so_far().slip_ms(100) == pytest.approx(20, abs=0.002)
    assert stage.core.account_so_far().slip_ms(75) == 0


def test_times_count_from_the_arrival_not_from_when_it_was_noticed() -> None:
    stage = Stage(STEADY)
    peer, _ = stage.connect()
    stage.at_ns = 30 * MS
    stage.core.on_data(peer, chat(), START_NS + 10 * MS)
    stage.play()
    assert offsets_ms(stage.truth().planned_ns)[0] == 210


def test_an_arrival_that_lies_in_the_future_counts_as_now() -> None:
    stage = Stage(STEADY)
    peer, _ = stage.connect()
    stage.core.on_data(peer, chat(), START_NS + 10 * MS)
    assert peer.answer is not None
    assert peer.answer.truth.arrived_ns == START_NS


def test_a_request_of_the_same_number_has_the_same_schedule_whatever_the_concurrency() -> None:
    script = Script(ttft_s=Exponential(0.2), itl_s=Exponential(0.05), tokens=Uniform(2, 200), seed=5)
    together, apart = Stage(script), Stage(script)
    for _ in range(6):
        together.asked()
    together.play()
    for _ in range(6):
        apart.asked()
        apart.play()

    def schedules(stage: Stage) -> list[list[int]]:
        return [
            [at - truth.arrived_ns for at in truth.planned_ns] for truth in sorted(stage.ended, key=lambda t: t.number)
        ]

    assert schedules(together) == schedules(apart)
    assert len({tuple(schedule) for schedule in schedules(apart)}) == 6


def test_tokens_of_all_streams_come_at_common_ticks() -> None:
    stage = Stage(msgspec.structs.replace(STEADY, together_s=0.05))
    for at_ms in (0, 13, 27):
        stage.play(at_ms * MS)
        stage.asked()
    stage.play()
    ticks = [set(truth.planned_ns) for truth in stage.ended]
    assert all(moment % (50 * MS) == 0 for tick in ticks for moment in tick)
    assert len(set.union(*ticks)) == 5  # 200 … 350 ms of the first, one later of the others


def test_a_long_prompt_takes_its_time() -> None:
    _, truth = played(msgspec.structs.replace(STEADY, prefill_per_s=100.0))
    assert truth.prompt_tokens == 3
    assert offsets_ms(truth.planned_ns)[0] == 230


def test_other_streams_slow_a_stream_down() -> None:
    stage = Stage(msgspec.structs.replace(STEADY, slowdown=0.1))
    for _ in range(3):
        stage.asked()
    stage.play()
    moments = offsets_ms(stage.truth().planned_ns)
    # Two others throughout; the first of the three is served first, so it sees all of them at each of its tokens.
    assert [later - earlier for earlier, later in pairwise(moments)] == [60, 60, 60]


def test_comments_keep_the_connection_alive_until_the_first_token() -> None:
    wire, _ = played(msgspec.structs.replace(STEADY, keepalive_s=0.06))
    comments = [at / MS for at, data in wire.sends if data == b"e\r\n: keep-alive\n\n\r\n"]
    assert comments == [60, 120, 180]


def test_in_a_freeze_nothing_happens_and_all_that_was_due_is_put_off() -> None:
    stage = Stage(msgspec.structs.replace(STEADY, freezes=(Freeze(0.26, 2),)))
    stage.asked()
    assert stage.core.begin_freeze() is None
    assert stage.core.next_freeze_ns() == START_NS + 260 * MS
    stage.play(260 * MS)
    assert stage.core.begin_freeze() == START_NS + 2260 * MS
    assert stage.core.next_freeze_ns() is None
    stage.at_ns = 2260 * MS
    peer, _ = stage.connect()
    stage.core.on_data(peer, chat(), START_NS + 1000 * MS)  # it lay in the kernel meanwhile
    stage.play()
    assert offsets_ms(stage.truth(1).stamps_ns) == [200, 250, 2300, 2350]
    assert offsets_ms(stage.truth(2).stamps_ns)[0] == 2460
    assert stage.truth(2).arrived_ns == START_NS + 1000 * MS
    assert stage.core.account_so_far().slip_ms(100) == 0


def test_a_freeze_before_the_first_token_puts_the_comments_off_too() -> None:
    stage = Stage(msgspec.structs.replace(STEADY, keepalive_s=0.06, freezes=(Freeze(0.07, 1),)))
    wire = stage.asked()
    stage.play(70 * MS)
    assert stage.core.begin_freeze() == START_NS + 1070 * MS
    stage.at_ns = 1070 * MS
    stage.play()
    assert [at / MS for at, data in wire.sends if b"keep-alive" in data] == [60, 1120, 1180]
    assert offsets_ms(stage.truth().stamps_ns)[0] == 1200


# What is said


def test_a_stream_says_what_the_truth_says() -> None:
    wire, truth = played(msgspec.structs.replace(STEADY, tokens=FixedTime(40)), stream_options={"include_usage": True})
    said = decode(body_of(wire.bytes))
    assert said.text_sha256 == truth.text_sha256 == hashlib.sha256(said.text.encode()).hexdigest()
    assert said.text.startswith("1 charlie delta echo")
    assert len(said.token_ends) == said.output_tokens == truth.output_tokens == 40
    assert (said.prompt_tokens, said.finish_reason, said.done) == (3, "stop", True)
    assert (said.error, said.malformed) == (None, None)
    assert (truth.finish_reason, truth.status, truth.fault) == ("stop", 200, None)


@pytest.mark.parametrize(("usage", "asked", "told"), [("asked", False, False), ("always", False, True)])
def test_usage_is_told_to_whom_the_script_says(usage: Any, asked: bool, told: bool) -> None:
    wire, _ = played(msgspec.structs.replace(STEADY, usage=usage))
    assert (decode(body_of(wire.bytes)).output_tokens is not None) is told


def test_usage_that_is_never_told_is_not_told_to_who_asks() -> None:
    wire, _ = played(msgspec.structs.replace(STEADY, usage="never"), stream_options={"include_usage": True})
    assert decode(body_of(wire.bytes)).output_tokens is None


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_the_requests_own_limit_ends_it_and_says_so(limit: str) -> None:
    wire, truth = played(STEADY, **{limit: 2})
    assert decode(body_of(wire.bytes)).finish_reason == truth.finish_reason == "length"
    assert truth.output_tokens == 2
    assert played(STEADY, **{limit: 100})[1].finish_reason == "stop"


def test_several_tokens_come_as_one_event_at_the_time_of_the_last() -> None:
    wire, truth = played(msgspec.structs.replace(STEADY, tokens=FixedTime(5), tokens_per_event=2))
    assert offsets_ms(truth.planned_ns) == [250, 350, 400]
    said = decode(body_of(wire.bytes))
    assert (len(said.token_ends), truth.output_tokens) == (3, 5)
    assert said.text_sha256 == truth.text_sha256


def test_without_a_role_event_the_head_comes_alone() -> None:
    wire, _ = played(msgspec.structs.replace(STEADY, role_event=False))
    assert wire.sends[0][1].endswith(b"\r\n\r\n")
    assert b'"role"' not in wire.bytes


def test_an_answer_that_is_no_stream_comes_whole_at_the_time_of_its_last_token() -> None:
    wire, truth = played(STEADY, stream=None)
    ((at_ns, data),) = wire.sends
    assert at_ns == 350 * MS
    said = msgspec.json.decode(data.partition(b"\r\n\r\n")[2])
    text = said["choices"][0]["message"]["content"]
    assert said["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert hashlib.sha256(text.encode()).hexdigest() == truth.text_sha256
    assert offsets_ms(truth.stamps_ns) == [350]


def test_the_model_that_was_asked_for_answers_whatever_its_name() -> None:
    wire, truth = played(STEADY, model='x"\\é\0')
    assert truth.model == 'x"\\é\0'
    first = body_of(wire.bytes).partition(b"\n\n")[0].removeprefix(b"data: ")
    assert msgspec.json.decode(first)["model"] == 'x"\\é\0'
    assert decode(body_of(wire.bytes)).malformed is None


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_a_body_without_chunks_ends_with_its_connection(version: bytes) -> None:
    stage = Stage(msgspec.structs.replace(STEADY, close=version == b"HTTP/1.1"))
    peer, wire = stage.connect()
    stage.core.on_data(peer, chat().replace(b"HTTP/1.1", version), START_NS)
    stage.play()
    head, _, body = wire.bytes.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert b"Connection: close" in head
    assert decode(body).text_sha256 == stage.truth().text_sha256
    assert wire.ended == (350 * MS, "closed")


# Requests


def test_requests_on_one_connection_are_answered_one_after_the_other() -> None:
    stage = Stage(STEADY)
    peer, wire = stage.connect()
    stage.core.on_data(peer, chat() + chat(), START_NS)
    stage.play()
    assert [(t.number, t.connection, t.nth) for t in stage.ended] == [(1, 0, 0), (2, 0, 1)]
    assert offsets_ms(stage.truth(2).stamps_ns)[0] == 550
    assert wire.bytes.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "not a chat"),
        (b"{}", "messages"),
        (b'{"messages": []}', "messages is empty"),
        (b'{"messages": [{"role": "user"}], "max_tokens": 0}', "max_tokens must be at least 1"),
        (b'{"messages": [{"role": "user"}], "stream": "yes"}', "$.stream"),
    ],
)
def test_a_body_that_is_no_chat_is_refused_in_words(body: bytes, says: str) -> None:
    stage = Stage(STEADY)
    peer, wire = stage.connect()
    request = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    stage.core.on_data(peer, request, START_NS)
    head, _, told = wire.bytes.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert says in msgspec.json.decode(told)["error"]["message"]
    assert stage.truth().status == 400
    assert wire.ended is None


@pytest.mark.parametrize(
    ("line", "status", "holds"),
    [
        ("GET /v1/models", 200, '"id":"mock"'),
        ("GET /health", 200, '"ok"'),
        ("HEAD /health", 200, ""),
        ("GET /v1/chat/completions", 405, "only POST"),
        ("DELETE /health", 405, "only GET"),
        ("GET /metrics", 404, "there is no /metrics here"),
    ],
)
def test_other_requests_are_answered_at_once(line: str, status: int, holds: str) -> None:
    stage = Stage(STEADY)
    peer, wire = stage.connect()
    stage.core.on_data(peer, f"{line} HTTP/1.1\r\n\r\n".encode(), START_NS)
    head, _, body = wire.bytes.decode().partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert holds in body
    assert (body == "") is line.startswith("HEAD")
    assert stage.core.account_so_far().others == 1
    assert not stage.ended


def test_what_is_no_request_is_refused_and_the_connection_closed() -> None:
    stage = Stage(STEADY)
    peer, wire = stage.connect()
    stage.core.on_data(peer, b"nonsense\r\n\r\n", START_NS)
    assert wire.bytes.startswith(b"HTTP/1.1 400 ")
    assert wire.ended == (0, "closed")


def test_a_client_that_asks_whether_to_go_on_is_told() -> None:
    stage = Stage(STEADY)
    peer, wire = stage.connect()
    head, _, body = chat().replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n").partition(b"\r\n\r\n")
    stage.core.on_data(peer, head + b"\r\n\r\n", START_NS)
    assert wire.bytes == b"HTTP/1.1 100 Continue\r\n\r\n"
    stage.core.on_data(peer, body, START_NS)
    stage.play()
    assert stage.truth().finish_reason == "stop"


# Slots


def test_who_finds_all_slots_busy_waits_in_order_and_who_finds_the_queue_full_is_refused() -> None:
    stage = Stage(msgspec.structs.replace(STEADY, slots=2, queue=1, retry_after_s=7))
    wires = [stage.asked() for _ in range(4)]
    assert wires[2].sends == []
    refusal = wires[3].bytes
    assert refusal.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 7\r\n" in refusal
    stage.play()
    assert [t.number for t in stage.ended] == [4, 1, 2, 3]
    third, fourth = stage.truth(3), stage.truth(4)
    assert (third.began_ns, third.queue_ns) == (START_NS + 350 * MS, 350 * MS)
    assert offsets_ms(third.stamps_ns) == [550, 600, 650, 700]
    assert (fourth.began_ns, fourth.queue_ns, fourth.status) == (None, None, 503)
    assert stage.core.account_so_far().queue_full == 1


def test_without_a_limit_any_number_waits() -> None:
    stage = Stage(msgspec.structs.replace(STEADY, slots=1))
    for _ in range(5):
        stage.asked()
    stage.play()
    assert [(t.number, t.queue_ns) for t in stage.ended] == [(i + 1, i * 350 * MS) for i in range(5)]


def test_who_comes_when_all_are_gone_need_not_wait() -> None:
    stage = Stage(msgspec.structs.replace(STEADY, slots=1, queue=0))
    for number in (1, 2, 3):
        stage.asked()
        stage.play()
        assert stage.truth(number).queue_ns == 0


def test_a_client_that_leaves_frees_its_slot_and_one_that_leaves_the_queue_its_place() -> None:
    stage = Stage(msgspec.structs.replace(STEADY, slots=1))
    peers = [stage.connect()[0] for _ in range(3)]
    for peer in peers:
        stage.ask(peer)
    stage.play(100 * MS)
    stage.core.on_disconnect(peers[1])
    stage.play(210 * MS)
    stage.core.on_disconnect(peers[0])
    stage.play()
    first, second, third = (stage.truth(number) for number in (1, 2, 3))
    assert (first.gone_ns, first.output_tokens, first.end_ns) == (START_NS + 210 * MS, 1, None)
    assert (second.gone_ns, second.began_ns, second.output_tokens) == (START_NS + 100 * MS, None, 0)
    assert offsets_ms(third.stamps_ns)[0] == 410
    assert stage.core.account_so_far().clients_left == 2


# Clients that do not read, or break


def test_a_client_that_does_not_read_holds_up_its_own_answer_alone() -> None:
    stage = Stage(STEADY)
    peer, wire = stage.connect()
    other = stage.asked()
    stage.ask(peer)
    stage.play(210 * MS)
    wire.result = HELD
    stage.play(1000 * MS)
    assert len(wire.sends) == 3  # the head, a token, and one that waits
    assert len(other.sends) == 5
    wire.result = SENT
    stage.core.on_writable(peer)
    stage.play()
    truth = stage.truth(2)
    assert offsets_ms(truth.stamps_ns) == offsets_ms(truth.planned_ns) == [200, 250, 1000, 1050]
    assert truth.held == 1
    assert stage.core.account_so_far().slip_ms(100) == 0


def test_what_could_not_be_sent_is_not_said_to_have_been() -> None:
    stage = Stage(STEADY)
    peer, wire = stage.connect()
    stage.ask(peer)
    stage.play(260 * MS)
    wire.result = BROKEN
    stage.play()
    stage.core.on_disconnect(peer)
    truth = stage.truth()
    assert (truth.output_tokens, len(truth.stamps_ns), len(truth.planned_ns)) == (2, 2, 2)
    assert truth.text_sha256 == hashlib.sha256(b"1 charlie").hexdigest()


def test_a_server_that_stops_says_which_answers_it_cut_off() -> None:
    stage = Stage(msgspec.structs.replace(STEADY, slots=1))
    peers = [stage.connect()[0] for _ in range(3)]
    for peer in peers[:2]:
        stage.ask(peer)
    stage.play(210 * MS)
    for peer in peers:
        stage.core.cut_off(peer)
    assert [(t.number, t.output_tokens, t.error) for t in stage.ended] == [
        (1, 1, "the server was stopped"),
        (2, 0, "the server was stopped"),
    ]


# Faults


def failed(fault: str, **changes: Any) -> tuple[Wire, Truth, Stage]:
    stage = Stage(msgspec.structs.replace(STEADY, faults=(parse_fault(fault),)))
    wire = stage.asked(**changes)
    stage.play(10_000 * MS)
    truth = stage.ended[0] if stage.ended else Truth(number=0, connection=0, nth=0, arrived_ns=0, read_ns=0)
    return wire, truth, stage


@pytest.mark.parametrize("kind", ["fin", "reset", "cut-chunk"])
@pytest.mark.parametrize("after", [1, 3, 4, 99])
def test_a_stream_breaks_off_after_so_many_tokens_when_the_next_is_due(kind: str, after: int) -> None:
    wire, truth, _ = failed(f"{kind}:{after}")
    tokens = min(after, 4)
    assert wire.ended == ((200 + 50 * tokens) * MS, "reset" if kind == "reset" else "closed")
    assert (truth.output_tokens, truth.fault) == (tokens, f"{kind}:{after}")
    assert (truth.end_ns, truth.finish_reason) == (None, None)
    assert b"[DONE]" not in wire.bytes
    assert b'"stop"' not in wire.bytes


@pytest.mark.parametrize("kind", ["fin", "reset"])
def test_after_no_token_it_breaks_off_before_the_headers(kind: str) -> None:
    wire, truth, _ = failed(f"{kind}:0")
    assert wire.sends == []
    assert wire.ended == (200 * MS, "reset" if kind == "reset" else "closed")
    assert truth.status is None


def test_half_a_chunk_is_half_a_chunk() -> None:
    wire, _, _ = failed("cut-chunk:1")
    size, _, rest = wire.sends[-1][1].partition(b"\r\n")
    assert 0 < len(rest) < int(size, 16)


@pytest.mark.parametrize(("after", "sends"), [(0, 0), (2, 3)])
def test_a_stalled_stream_stays_open_and_keeps_its_slot(after: int, sends: int) -> None:
    wire, _, stage = failed(f"stall:{after}")
    assert len(wire.sends) == sends
    assert wire.ended is None
    assert not stage.ended


def test_a_broken_event_comes_between_whole_ones() -> None:
    wire, truth, _ = failed("malformed:2")
    said = decode(body_of(wire.bytes))
    assert said.malformed is not None
    assert said.malformed.startswith("event 4")  # the role, two tokens, and this
    assert truth.output_tokens == 4
    assert truth.finish_reason == "stop"
    assert offsets_ms(truth.stamps_ns) == [200, 250, 350, 400]


def test_a_broken_event_may_be_the_last_before_the_end() -> None:
    wire, truth, _ = failed("malformed:4")
    assert decode(body_of(wire.bytes)).malformed is not None
    assert truth.output_tokens == 4


def test_an_error_event_ends_the_body_and_not_the_connection() -> None:
    wire, truth, _ = failed("error-event:2")
    said = decode(body_of(wire.bytes))
    assert said.error is not None
    assert (len(said.token_ends), said.done, said.finish_reason) == (2, False, None)
    assert wire.ended is None
    assert truth.end_ns is None


@pytest.mark.parametrize(("kind", "finish", "done"), [("no-done", "stop", False), ("no-end", None, False)])
def test_a_stream_may_end_without_its_last_words(kind: str, finish: str | None, done: bool) -> None:
    wire, truth, _ = failed(kind)
    said = decode(body_of(wire.bytes))
    assert (said.finish_reason, said.done, len(said.token_ends)) == (finish, done, 4)
    assert wire.bytes.endswith(b"0\r\n\r\n")
    assert (truth.fault, truth.finish_reason) == (kind, finish)
    assert (truth.end_ns is None) is (finish is None)


def test_an_empty_stream_ends_in_order_without_a_token() -> None:
    wire, truth, _ = failed("empty")
    said = decode(body_of(wire.bytes))
    assert (said.finish_reason, said.done, said.token_ends) == ("stop", True, [])
    assert truth.text_sha256 == hashlib.sha256(b"").hexdigest()
    assert truth.end_ns == START_NS + 200 * MS


def test_an_endless_stream_heeds_no_limit() -> None:
    wire, _, stage = failed("endless", max_tokens=2)
    assert len(wire.sends) == 1 + (10_000 - 200) // 50 + 1
    assert not stage.ended


@pytest.mark.parametrize("fault", ["split", "split:2", "split:500"])
def test_split_frames_say_the_same_and_the_stamp_is_of_the_events_last_byte(fault: str) -> None:
    stage = Stage(msgspec.structs.replace(STEADY, faults=(parse_fault(fault),)))
    moments: list[int] = []
    now: Callable[[], int] = stage.core.now_ns

    def ticking() -> int:
        stage.at_ns += 1  # so that a stamp says which sends came before it
        moments.append(now())
        return now()

    stage.core.now_ns = ticking
    wire = stage.asked()
    stage.play()
    truth = stage.truth()
    assert decode(body_of(wire.bytes)).text_sha256 == truth.text_sha256
    assert truth.fault == fault
    assert len(wire.sends) >= 5 + 4
    for stamp in truth.stamps_ns:
        before = b"".join(data for at, data in wire.sends if START_NS + at < stamp)
        after = b"".join(data for at, data in wire.sends if START_NS + at <= stamp)
        assert body_so_far(after).count(b"\n\n") > body_so_far(before).count(b"\n\n")


def body_so_far(data: bytes) -> bytes:
    return data.partition(b"\r\n\r\n")[2]


def test_the_same_seed_cuts_at_the_same_places() -> None:
    first, second = failed("split:4")[0], failed("split:4")[0]
    assert [len(data) for _, data in first.sends] == [len(data) for _, data in second.sends]
    assert len(first.sends) == 1 + 4 * 4


def test_slow_headers_put_everything_off() -> None:
    wire, truth, _ = failed("slow-headers:2s")
    assert [at / MS for at, _ in wire.sends] == [2000, 2200, 2250, 2300, 2350]
    assert truth.head_ns == START_NS + 2000 * MS


@pytest.mark.parametrize(
    ("fault", "line", "header"),
    [
        ("status:429", b"HTTP/1.1 429 Too Many Requests", b"Retry-After: 1"),
        ("status:500", b"HTTP/1.1 500 Internal Server Error", b"application/json"),
        ("status:599", b"HTTP/1.1 599 Scripted", b"application/json"),
        ("html", b"HTTP/1.1 200 OK", b"text/html"),
    ],
)
def test_a_status_or_a_page_is_answered_at_once_and_takes_no_slot(fault: str, line: bytes, header: bytes) -> None:
    stage = Stage(msgspec.structs.replace(STEADY, slots=1, queue=0, faults=(parse_fault(f"{fault}@#2"),)))
    stage.asked()
    wire = stage.asked()
    assert wire.bytes.startswith(line)
    assert header in wire.bytes
    assert stage.ended[0].fault == fault
    stage.play()
    assert [t.number for t in stage.ended] == [2, 1]
    assert stage.core.account_so_far().faults == {fault: 1}


def test_a_fault_that_was_not_reached_is_not_said_to_have_been_played() -> None:
    stage = Stage(msgspec.structs.replace(STEADY, faults=(parse_fault("fin:3"),)))
    peer, _ = stage.connect()
    stage.ask(peer)
    stage.play(210 * MS)
    stage.core.on_disconnect(peer)
    assert stage.truth().fault is None


@pytest.mark.parametrize(
    ("fault", "ended", "sends"),
    [
        ("fin", "closed", 0),
        ("reset", "reset", 0),
        ("stall", None, 0),
        ("endless", None, 0),
        ("cut-chunk", "closed", 1),
        ("malformed", None, 1),
        ("error-event", None, 1),
        ("empty", None, 1),
        ("no-done", None, 1),
        ("slow-headers:1s", None, 1),
    ],
)
def test_faults_of_an_answer_that_is_no_stream(fault: str, ended: str | None, sends: int) -> None:
    wire, _, _ = failed(fault, stream=False)
    assert (wire.ended[1] if wire.ended else None) == ended
    assert len(wire.sends) == sends
    if fault == "malformed":
        with pytest.raises(msgspec.DecodeError):
            msgspec.json.decode(wire.bytes.partition(b"\r\n\r\n")[2])
    elif fault == "error-event":
        assert "error" in msgspec.json.decode(wire.bytes.partition(b"\r\n\r\n")[2])
    elif fault == "cut-chunk":
        head, _, body = wire.bytes.partition(b"\r\n\r\n")
        assert 0 < len(body) < int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
