"""The verb `mock`: makes a script from the flags, plays it until Ctrl-C, and prints what the server did."""

import contextlib
import ipaddress
import math
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import msgspec
import typer

from loadgen.cli.signals import handled_by, hang_ups
from loadgen.cli.streams import print_text, tell
from loadgen.errors import InputError
from loadgen.mock import Account, Freeze, Script, ServerStop, Truth, parse_fault, serve
from loadgen.mock.distribution import parse_counts, parse_time_s, parse_times
from loadgen.mock.fault import KINDS
from loadgen.mock.process import tune_process
from loadgen.report.format import format_count

LATE_MS: Final = 1.0
"""If the p99 lateness of a server's events is above this, it did not keep its schedule."""

FAULT_HELP: Final = (
    f"KIND[:PARAM][@WHEN], repeatable. KIND: {', '.join(KINDS)}. WHEN: 2% of the requests, #7, #5-8 or #every:10; "
    "without it, all."
)


def mock(
    ttft: Annotated[str, typer.Option("--ttft", metavar="D", help="Time to the first token.")] = "200ms",
    itl: Annotated[str, typer.Option("--itl", metavar="D", help="Time between tokens.")] = "50ms",
    tokens: Annotated[str, typer.Option("--tokens", metavar="D", help="Tokens in an answer.")] = "40",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of everything that is random.")] = 0,
    together: Annotated[
        str | None, typer.Option("--together", metavar="50ms", help="Send tokens only at multiples of this time.")
    ] = None,
    slots: Annotated[
        int | None, typer.Option("--slots", metavar="N", min=1, help="Parallel streams (default: any number).")
    ] = None,
    queue: Annotated[
        int | None,
        typer.Option("--queue", metavar="N", min=0, help="Requests that may wait for a slot; further ones get a 503."),
    ] = None,
    retry_after: Annotated[
        int, typer.Option("--retry-after", metavar="S", min=0, help="Retry-After of a 503 or 429, in seconds.")
    ] = 1,
    slowdown: Annotated[
        float, typer.Option("--slowdown", metavar="X", min=0, help="Each other stream makes gaps longer by this share.")
    ] = 0.0,
    prefill_rate: Annotated[
        float | None,
        typer.Option("--prefill-rate", metavar="N", help="Prompt words per second; this time is added to --ttft."),
    ] = None,
    tokens_per_event: Annotated[
        int, typer.Option("--tokens-per-event", metavar="N", min=1, help="Tokens sent as one event.")
    ] = 1,
    role_event: Annotated[
        bool, typer.Option("--role-event/--no-role-event", help="Whether to send a first event without text.")
    ] = True,
    usage: Annotated[
        bool | None,
        typer.Option("--usage/--no-usage", help="Send token counts always, or never (default: when asked)."),
    ] = None,
    keepalive: Annotated[
        str | None, typer.Option("--keepalive-comments", metavar="250ms", help="Send comments until the first token.")
    ] = None,
    close: Annotated[bool, typer.Option("--close", help="Close connections instead of chunked encoding.")] = False,
    freeze: Annotated[
        list[str] | None,
        typer.Option("--freeze", metavar="AT:FOR", help="Stop for the time FOR, AT after the first chat. Repeatable."),
    ] = None,
    fault: Annotated[list[str] | None, typer.Option("--fault", metavar="FAULT", help=FAULT_HELP)] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", metavar="NAME", help="A model that /v1/models lists. Repeatable.")
    ] = None,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 0,
    truth: Annotated[
        Path | None, typer.Option("--truth", metavar="PATH", help="Log what was really sent, one line per chat.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Start a scripted server for testing clients.

    It prints its URL, and stops on Ctrl-C. D is a time, a number, or one of normal:MEAN:DEVIATION,
    lognormal:MEDIAN:SIGMA, uniform:LOW:HIGH and exp:MEAN.
    """
    if prefill_rate is not None and not 0 < prefill_rate < math.inf:
        raise InputError(f"--prefill-rate {prefill_rate:g}: not above 0; write e.g. --prefill-rate 500")
    if queue is not None and slots is None:
        raise InputError(f"--queue {queue}: no request waits unless --slots is given; add e.g. --slots 4")
    script = Script(
        seed=seed,
        ttft_s=parse_times(ttft, "--ttft"),
        itl_s=parse_times(itl, "--itl"),
        tokens=parse_counts(tokens, "--tokens"),
        together_s=parse_time_s(together, "--together") if together is not None else 0.0,
        slots=slots,
        queue=queue,
        retry_after_s=retry_after,
        slowdown=slowdown,
        prefill_per_s=prefill_rate,
        tokens_per_event=tokens_per_event,
        role_event=role_event,
        usage="asked" if usage is None else "always" if usage else "never",
        keepalive_s=parse_time_s(keepalive, "--keepalive-comments") if keepalive is not None else 0.0,
        close=close,
        freezes=tuple(_freeze(text) for text in freeze or ()),
        faults=tuple(parse_fault(text) for text in fault or ()),
        models=tuple(model or ("mock",)),
    )
    for line in account_text(_serve(script, host, port, truth, force=force)).split("\n"):
        tell(line)


def _serve(script: Script, host: str, port: int, truth: Path | None, *, force: bool) -> Account:
    if truth is not None and truth.exists() and not force:
        raise InputError(f"--truth {truth}: it already exists; choose another name, or add --force")
    tune_process()
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(ServerStop())
        stack.enter_context(handled_by(lambda *_: stop.request(), (signal.SIGINT, *hang_ups())))
        log = None if truth is None else _TruthLog(truth)

        def started(url: str) -> None:
            if log is not None:
                stack.enter_context(log.open())
            print_text(f"{url}\n")
            sys.stdout.flush()
            tell("scripted server; Ctrl-C stops it")
            if not _is_loopback(host):
                tell("others on the network can reach the server, and it has no authentication")

        def ended(request: Truth) -> None:
            if log is not None:
                log.append(request)

        return serve(script, host, port, stop=stop, on_start=started, on_end=ended)


class _TruthLog:
    """The file of --truth. One that can no longer be written ends no server, which others may be measuring."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Raises InputError if the file cannot be written."""
        try:
            # Unbuffered, so that a server that is killed leaves the lines that it has written.
            self._file = self._path.open("wb", buffering=0)
        except OSError as error:
            hint = "choose another place"
            raise InputError(f"--truth {self._path}: cannot be written ({error.strerror}); {hint}") from error
        with self._file:
            yield

    def append(self, request: Truth) -> None:
        if self._file is None or self._file.closed:
            return
        try:
            self._file.write(msgspec.json.encode(request) + b"\n")
        except OSError as error:
            self._file.close()
            tell(f"loadgen: --truth {self._path}: cannot be written any more ({error.strerror}); the server goes on")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _freeze(text: str) -> Freeze:
    at, colon, length = text.partition(":")
    if not colon:
        raise InputError(f"--freeze {text}: it needs a start and a length; write e.g. --freeze 8s:2s")
    return Freeze(parse_time_s(at, "--freeze", text), parse_time_s(length, "--freeze", text))


def account_text(account: Account) -> str:
    """The totals of a server, in a few lines."""
    left = [f"{account.queue_full} refused by a full queue"] if account.queue_full else []
    left += [f"{account.clients_left} abandoned by their client"] if account.clients_left else []
    chats = format_count(account.chats, "chat")
    chats += f" ({', '.join(left)})" if left else ""
    tokens, others = format_count(account.tokens, "token"), format_count(account.others, "other request")
    lines = [f"{chats}, {tokens}, {others}, {format_count(account.connections, 'connection')}"]
    if account.faults:
        lines.append("faults: " + ", ".join(f"{word} ×{times}" for word, times in sorted(account.faults.items())))
    middle, high, most = (account.slip_ms(p) for p in (50, 99, 100))
    if middle is not None and high is not None and most is not None:
        late = f"p50 {middle:.2f} ms, p99 {high:.2f} ms, at most {most:.2f} ms"
        lines.append(f"late relative to its own schedule: {late}")
        if high > LATE_MS:
            hint = "give it fewer streams, fewer tokens per second, or a core of its own"
            lines.append(f"so it did not keep its schedule; {hint}")
    return "\n".join(lines)
