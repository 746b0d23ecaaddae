"""The scripted server without its sockets: it takes bytes and times, and returns bytes and times.

Each connection is a `Peer` with a `Sender`. The core is called when bytes arrive and when clients leave. It sends
through the senders, and returns the time at which it must be called again. Tests therefore run it in virtual time, with
senders that only record.
"""

import heapq
from collections import defaultdict, deque
from collections.abc import Callable
from itertools import count
from typing import Final

from loadgen.errors import InputError
from loadgen.mock import wording
from loadgen.mock.answer import Answer, Peer, Sender
from loadgen.mock.chat import read_chat
from loadgen.mock.fault import choose_fault
from loadgen.mock.request import BODY_BYTES, Refusal, Request
from loadgen.mock.script import Script
from loadgen.mock.steps import send_head, start
from loadgen.mock.truth import Account, Truth
from loadgen.mock.wording import Framing

STEPS_AT_ONCE: Final = 64
"""How many steps are played before the core accepts requests again."""
CHAT: Final = "/v1/chat/completions"
CLOSING: Final = Framing(chunked=False, keep_alive=False)
"""The end of the connection is the end of the answer."""


class Core:
    """The behavior of the server. now_ns: its clock. created: the creation time in its answers, in seconds since 1970.

    on_end: called with the truth of each chat request when the request is over.
    """

    def __init__(
        self, script: Script, now_ns: Callable[[], int], created: int, on_end: Callable[[Truth], None]
    ) -> None:
        self.script, self.now_ns, self.created = script, now_ns, created
        self.account = Account()
        self.slips: defaultdict[int, int] = defaultdict(int)
        self.keepalive_ns = round(script.keepalive_s * 1e9)
        self._models = wording.model_list(script.models, created)
        self._tick_ns = round(script.together_s * 1e9)
        self._on_end = on_end
        self._active = 0
        self._waiting: deque[Answer] = deque()
        self._due: list[tuple[int, int, Answer]] = []
        self._sequence = count()
        self._freezes: deque[tuple[int, int]] = deque()
        self._freeze_end_ns = 0

    # What happens outside

    def on_connect(self, line: Sender) -> Peer:
        """A client has connected."""
        peer = Peer(line, self.account.connections)
        self.account.connections += 1
        return peer

    def on_data(self, peer: Peer, data: bytes, arrived_ns: int) -> None:
        """Bytes have arrived, the last of them at `arrived_ns`."""
        if peer.closing:
            return
        peer.requests.feed(data)
        if peer.answer is None:
            self._serve(peer, arrived_ns)
        elif peer.requests.buffered_bytes > BODY_BYTES:
            peer.sender.reset()
            self.on_disconnect(peer)

    def on_disconnect(self, peer: Peer) -> None:
        """The client has closed the connection, or it is broken."""
        peer.closing = True
        answer = peer.answer
        if answer is None:
            return
        answer.truth.gone_ns = self.now_ns()
        self.account.clients_left += 1
        if answer.truth.began_ns is None:
            self._waiting.remove(answer)
        self.release(answer)

    def cut_off(self, peer: Peer) -> None:
        """The server stops while an answer is in progress, or waits for its slot."""
        answer, peer.closing = peer.answer, True
        if answer is not None:
            answer.live, peer.answer = False, None
            answer.truth.error = "the server was stopped"
            self._record_answer(answer)

    def on_writable(self, peer: Peer) -> None:
        """The client has read all held bytes, so its answer continues from now."""
        answer = peer.answer
        if answer is not None and answer.held_step_ns is not None:
            self._schedule(max(answer.held_step_ns, self.now_ns()), answer)
            answer.held_step_ns = None

    def run_due(self) -> int | None:
        """Play the steps that are due, at most `STEPS_AT_ONCE`; returns when the next is due, or None if there is
        none."""
        due, now_ns = self._due, self.now_ns
        for _ in range(STEPS_AT_ONCE):
            if not due or due[0][0] > now_ns():
                break
            due_ns, _number, answer = heapq.heappop(due)
            if answer.live:
                self._schedule(answer.step(answer, due_ns), answer)
        return due[0][0] if due else None

    def begin_freeze(self) -> int | None:
        """Begin a freeze if the script has one now, and return when it ends; None if it has none. Everything that is
        due is delayed by the length of the freeze."""
        now_ns = self.now_ns()
        if not self._freezes or now_ns < self._freezes[0][0]:
            return None
        _, for_ns = self._freezes.popleft()
        self._freeze_end_ns = now_ns + for_ns
        for _due_ns, _number, answer in self._due:
            answer.first_ns += for_ns
        self._due[:] = [(due_ns + for_ns, number, answer) for due_ns, number, answer in self._due]
        return self._freeze_end_ns

    def next_freeze_ns(self) -> int | None:
        """When the next freeze begins; None if there is none, or if no chat has arrived yet to count from."""
        return self._freezes[0][0] if self._freezes else None

    def account_so_far(self) -> Account:
        """The account so far."""
        self.account.slips = dict(self.slips)
        return self.account

    # What answers ask

    def ns_per_gap_second(self) -> float:
        """The length in ns of one second of a gap, which grows with each other stream."""
        slowdown = self.script.slowdown
        return 1e9 if not slowdown else 1e9 * (1 + slowdown * max(0, self._active - 1))

    def aligned_ns(self, due_ns: int) -> int:
        """The same time; or the next multiple of `together_s`, if tokens are sent only at those."""
        return due_ns if not self._tick_ns else -(-due_ns // self._tick_ns) * self._tick_ns

    def release(self, answer: Answer, then: Callable[[], None] | None = None) -> None:
        """An answer is over. then: what to do with the connection, if not what the request asked for."""
        peer, truth = answer.peer, answer.truth
        answer.live = False
        peer.answer = None
        if truth.gone_ns is None:
            truth.sent_ns = self.now_ns()
            if then is not None or not answer.framing.keep_alive:
                peer.closing = True
                (then or peer.sender.close)()
        self._record_answer(answer)
        if truth.began_ns is not None:
            self._active -= 1
            if self._waiting:
                self._start_answer(self._waiting.popleft(), self.now_ns())
        if not peer.closing and peer.requests.buffered_bytes:
            self._serve(peer, self.now_ns())

    # Requests

    def _schedule(self, due_ns: int | None, answer: Answer) -> None:
        if due_ns is not None:
            heapq.heappush(self._due, (due_ns, next(self._sequence), answer))

    def _start_answer(self, answer: Answer, base_ns: int) -> None:
        self._active += 1
        answer.truth.began_ns = base_ns
        self._schedule(start(answer, base_ns), answer)

    def _record_answer(self, answer: Answer) -> None:
        answer.truth.output_tokens = answer.sent
        answer.truth.text_sha256 = wording.text_sha256(answer.number, answer.sent)
        self.account.tokens += answer.sent
        self._record_truth(answer.truth)

    def _record_truth(self, truth: Truth) -> None:
        if truth.fault is not None:
            self.account.faults[truth.fault] = self.account.faults.get(truth.fault, 0) + 1
        self._on_end(truth)

    def _serve(self, peer: Peer, arrived_ns: int) -> None:
        """Answer the complete requests, up to the first one whose answer takes time."""
        while peer.answer is None and not peer.closing:
            try:
                request = peer.requests.next_request()
            except Refusal as refusal:
                self.account.others += 1
                body = wording.json_bytes(wording.error_body(refusal.reason, "invalid_request_error"))
                self._send(peer, wording.response(refusal.status, body, CLOSING), CLOSING)
                return
            if request is None:
                if peer.requests.expects_continue():
                    peer.sender.send(wording.CONTINUE)
                return
            if request.path == CHAT and request.method == "POST":
                self._serve_chat(peer, request, arrived_ns)
            else:
                self.account.others += 1
                framing = self._framing_of(request)
                self._send(peer, self._other_response(request, framing), framing)
            peer.nth += 1

    def _send(self, peer: Peer, data: bytes, framing: Framing) -> None:
        peer.sender.send(data)
        if not framing.keep_alive:
            peer.closing = True
            peer.sender.close()

    def _framing_of(self, request: Request) -> Framing:
        return Framing(request.chunked and not self.script.close, request.keep_alive and not self.script.close)

    def _other_response(self, request: Request, framing: Framing) -> bytes:
        method = request.method
        known = {"/v1/models": self._models, "/health": b'{"status":"ok"}'}
        if request.path in known and method in ("GET", "HEAD"):
            return wording.response(200, known[request.path], framing, method=method)
        if request.path in known or request.path == CHAT:
            allow = "POST" if request.path == CHAT else "GET, HEAD"
            body = wording.json_bytes(wording.error_body(f"here, only {allow}", "invalid_request_error"))
            return wording.response(405, body, framing, f"Allow: {allow}", method=method)
        message = f"there is no {request.path} here; there are {CHAT}, {' and '.join(known)}"
        body = wording.json_bytes(wording.error_body(message, "invalid_request_error", "not_found"))
        return wording.response(404, body, framing, method=method)

    def _serve_chat(self, peer: Peer, request: Request, arrived_ns: int) -> None:
        script, read_ns = self.script, self.now_ns()
        self.account.chats += 1
        number = self.account.chats
        if number == 1:
            self._freezes.extend(sorted((read_ns + round(f.at_s * 1e9), round(f.for_s * 1e9)) for f in script.freezes))
        truth = Truth(
            number=number,
            connection=peer.number,
            nth=peer.nth,
            arrived_ns=min(arrived_ns, read_ns),
            read_ns=read_ns,
        )
        framing = self._framing_of(request)
        try:
            chat = read_chat(request.body)
        except InputError as error:
            self._refuse(peer, truth, framing, 400, str(error))
            return
        if chat.stream and not framing.chunked:
            framing = CLOSING  # only the end of the connection can end this answer
        truth.model, truth.stream, truth.prompt_tokens = chat.model, bool(chat.stream), chat.prompt_words
        fault = choose_fault(script.faults, script.seed, number)
        if fault is not None and fault.kind in ("status", "html"):
            truth.fault = fault.label
            self._refuse(peer, truth, framing, int(fault.parameter) or 200, f"scripted fault {fault.label}")
            return
        full = script.slots is not None and self._active >= script.slots
        if full and script.queue is not None and len(self._waiting) >= script.queue:
            self.account.queue_full += 1
            self._refuse(peer, truth, framing, 503, "all slots are busy, and the queue is full")
            return
        peer.answer = answer = Answer(self, peer, truth, chat, framing, fault, send_head)
        if full:
            self._waiting.append(answer)
        else:
            self._start_answer(answer, max(truth.arrived_ns, self._freeze_end_ns))

    def _refuse(self, peer: Peer, truth: Truth, framing: Framing, status: int, reason: str) -> None:
        """Answer at once, with an error in place of a chat; for status 200, with an HTML page."""
        if status == 200:
            data = wording.response(200, wording.PAGE, framing, content_type="text/html; charset=utf-8")
        else:
            kind = {400: "invalid_request_error", 429: "rate_limit_error"}.get(status, "server_error")
            body = wording.json_bytes(wording.error_body(reason, kind))
            retry_after = (f"Retry-After: {self.script.retry_after_s}",) if status in (429, 503) else ()
            data = wording.response(status, body, framing, *retry_after)
            truth.error = reason
        truth.status, truth.head_ns = status, self.now_ns()
        self._send(peer, data, framing)
        truth.sent_ns = self.now_ns()
        self._record_truth(truth)
