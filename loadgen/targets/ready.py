"""Waits for a server that is not ready yet: no process listens there, or it answers that it is still loading, by its
status or in words.

Measures nothing. It requests the server's list of models, whose answer tells enough even if the path is wrong.
"""

import errno
from collections.abc import Callable
from typing import Final

import aiohttp

from loadgen.clock import Clock
from loadgen.record import Reply
from loadgen.scenario.urls import route_url
from loadgen.targets.probe.answers import ORDERLY
from loadgen.targets.served import Served
from loadgen.targets.tls import speaks_tls
from loadgen.wire.client import beginning_of
from loadgen.wire.loading import says_loading
from loadgen.wire.redirects import trace_redirects

LOADING: Final = frozenset({502, 503, 504})
"""Statuses of a server that is loading its model, or of a gateway whose server is. 404 is not among them: unless the
body says so, it means a wrong path or name, for which waiting does not help."""
FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 2.0
_TIMEOUT_S: Final = 10.0
_MAX_BYTES: Final = 128 << 10
"""Of an answer. What says that the server is loading is shorter."""
_NOBODY: Final = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, 10061, 10054})
"""Errors of a connection that is refused or reset: no server listens, or only a proxy of one (Docker)."""


class ReadyWait:
    """The wait for one server: how long it may last in all, and the pauses in it."""

    def __init__(self, clock: Clock, ready_s: float, who: str, tell: Callable[[str], None]) -> None:
        """ready_s: how long to wait at most, from the first answer that says that it is not ready. tell: called once,
        with a line for the user."""
        self.began_ns: int | None = None
        """When the server was first found not to be ready; None: it was ready."""
        self.in_vain = False
        """True if the time is over and the server is not ready."""
        self._clock = clock
        self._ready_s = ready_s
        self._who = who
        self._tell = tell
        self._pause_s = FIRST_PAUSE_S

    async def pause(self, why: str, at_least_s: float = 0.0) -> bool:
        """Wait before the server is asked again; False if the time is over. why: what it answered."""
        if self.in_vain:
            return False
        now_ns = self._clock.now_ns()
        if self.began_ns is None:
            self.began_ns = now_ns
            if self._ready_s:
                self._tell(f"{self._who}: {why}; waiting up to {self._ready_s:g} s")
        left_ns = self.began_ns + round(self._ready_s * 1e9) - now_ns
        if left_ns <= 0:
            self.in_vain = True
            return False
        await self._clock.sleep_until_ns(now_ns + min(left_ns, round(max(self._pause_s, at_least_s) * 1e9)))
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        return True


async def wait_until_answered(url: str, headers: dict[str, str], wait: ReadyWait) -> None:
    """Wait until a server answers anything else than that it is loading, or until the time is over. Never raises for
    what a server does: the next request meets the same, and can report more about it."""
    while (why := await why_not_ready(url, headers)) is not None:
        if not await wait.pause(why):
            return


async def why_not_ready(url: str, headers: dict[str, str]) -> str | None:
    """Why a server is not ready yet, in words; None if it is, or if waiting would not help. url: its base URL."""
    try:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S), trace_configs=[trace_redirects()]
            ) as session,
            session.get(route_url(url, "models"), headers=headers) as response,
        ):
            body = b"" if response.status in LOADING else await beginning_of(response, _MAX_BYTES)
            return _loading(response.status, body)
    except aiohttp.ServerDisconnectedError:
        # A server that wants TLS closes connections without it, for which waiting does not help.
        return None if await speaks_tls(url) else "nobody answers there yet"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        reason = getattr(error, "os_error", error)
        return "nobody listens there yet" if getattr(reason, "errno", None) in _NOBODY else None
    except TimeoutError:
        return None


def why_not_ready_by(reply: Reply, body: bytes) -> str | None:
    """As `why_not_ready`, by the reply to a chat and the body of the answer."""
    if reply.status is None or reply.stamps_ns or reply.outcome in ORDERLY:
        return None
    return _loading(reply.status, body)


def _loading(status: int, body: bytes) -> str | None:
    loads = status in LOADING or says_loading(body)
    return f"the server is still loading (status {status})" if loads else None


async def is_answering(served: Served) -> bool:
    """Whether a server answers the request for its models, whatever it says, except that it is not ready yet."""
    try:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S), trace_configs=[trace_redirects()]
            ) as session,
            session.get(route_url(served.base_url, "models"), headers=served.headers) as response,
        ):
            return _loading(response.status, await beginning_of(response, _MAX_BYTES)) is None
    except (aiohttp.ClientError, OSError, ValueError, TimeoutError):
        return False
