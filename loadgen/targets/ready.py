"""Waits for a server that is not ready yet: nobody listens there, or it answers that it is still loading.

Measures nothing. What a model's server says to a request for its list of models is enough to tell, whatever its path.
"""

import errno
from collections.abc import Callable
from typing import Final

import aiohttp

from loadgen.clock import Clock
from loadgen.record import Reply
from loadgen.scenario.urls import route_url
from loadgen.targets.tls import speaks_tls
from loadgen.wire.redirects import trace_redirects

LOADING: Final = frozenset({502, 503, 504})
"""Statuses of a server that loads its model, or of a gateway whose server does. A 404 is none: it is what a wrong path
or a wrong name is answered with, and those do not mend themselves."""
FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 2.0
_TIMEOUT_S: Final = 10.0
_NOBODY: Final = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, 10061, 10054})
"""Of a connection that is refused or reset: nobody listens, or only somebody who would pass it on (Docker)."""


class ReadyWait:
    """The wait for one server: how long it may last in all, and the pauses in it."""

    def __init__(self, clock: Clock, ready_s: float, who: str, note: Callable[[str], None]) -> None:
        """ready_s: at most so long, from the first answer that says that it is not ready. note: is told once."""
        self.began_ns: int | None = None
        """When it was first seen not to be ready; None: it was not."""
        self.in_vain = False
        """The time is over, and it is not ready."""
        self._clock = clock
        self._ready_s = ready_s
        self._who = who
        self._note = note
        self._pause_s = FIRST_PAUSE_S

    async def pause(self, why: str, at_least_s: float = 0.0) -> bool:
        """Wait before the server is asked again; False: it is not to be asked again. why: what it answered."""
        now_ns = self._clock.now_ns()
        if self.began_ns is None:
            self.began_ns = now_ns
            if self._ready_s:
                self._note(f"{self._who}: {why}; waiting up to {self._ready_s:g} s")
        left_ns = self.began_ns + round(self._ready_s * 1e9) - now_ns
        if left_ns <= 0:
            self.in_vain = True
            return False
        await self._clock.sleep_until_ns(now_ns + min(left_ns, round(max(self._pause_s, at_least_s) * 1e9)))
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        return True


async def wait_until_answered(url: str, headers: dict[str, str], wait: ReadyWait) -> None:
    """Return as soon as a server answers with something else than that it loads, or the time is over. Never raises for
    what a server does: whoever uses it next meets it, and can say more."""
    while (why := await why_not_ready(url, headers)) is not None:
        if not await wait.pause(why):
            return


async def why_not_ready(url: str, headers: dict[str, str]) -> str | None:
    """Why a server cannot be asked yet, in words; None where it can be, or where waiting would not help. url: its base,
    where its models are listed."""
    try:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S), trace_configs=[trace_redirects()]
            ) as session,
            session.get(route_url(url, "models"), headers=headers) as response,
        ):
            return _loading(response.status) if response.status in LOADING else None
    except aiohttp.ServerDisconnectedError:
        # A server that wants TLS hangs up on who asks without; that does not mend itself.
        return None if await speaks_tls(url) else "nobody answers there yet"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        reason = getattr(error, "os_error", error)
        return "nobody listens there yet" if getattr(reason, "errno", None) in _NOBODY else None
    except TimeoutError:
        return None


def why_not_ready_by(reply: Reply) -> str | None:
    """As `why_not_ready`, by what a chat came to."""
    return _loading(reply.status) if reply.outcome == "http_error" and reply.status in LOADING else None


def _loading(status: int | None) -> str:
    return f"the server is still loading (status {status})"
