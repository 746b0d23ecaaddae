"""The start of the embedded server: what its process prints, and how long the loading of the model took."""

import asyncio
from typing import Any, cast

import msgspec
import pytest

from loadgen.child import Child
from loadgen.targets.llamacpp import target
from loadgen.targets.llamacpp.target import ServerStarted, wait_until_loaded


class ScriptedChild:
    """Prints lines, each at a moment, s."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *lines: tuple[float, str]) -> None:
        self.lines, self.moment = list(lines), 0.0
        monkeypatch.setattr(target, "now_ns", lambda: round(self.moment * 1e9))

    async def receive(self, decoder: msgspec.json.Decoder[Any], within_s: float) -> Any:
        self.moment, line = self.lines.pop(0)
        return decoder.decode(line)


SERVING = '{"event": "serving", "url": "http://127.0.0.1:1", "pid": 7}'
FAILED = '{"event": "serving", "error": "ImportError: no"}'


@pytest.mark.parametrize(
    ("lines", "load_s"),
    [
        (((1.0, '{"event": "loading"}'), (3.5, SERVING)), 2.5),
        (((1.0, SERVING),), None),
    ],
)
def test_the_loading_lasts_from_its_event_until_the_server_serves(
    monkeypatch: pytest.MonkeyPatch, lines: tuple[tuple[float, str], ...], load_s: float | None
) -> None:
    child = cast(Child, ScriptedChild(monkeypatch, *lines))
    assert asyncio.run(wait_until_loaded(child)) == (ServerStarted("http://127.0.0.1:1", 7), load_s)


def test_a_server_that_cannot_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    child = cast(Child, ScriptedChild(monkeypatch, (1.0, '{"event": "loading"}'), (2.0, FAILED)))
    started, _ = asyncio.run(wait_until_loaded(child))
    assert started.error == "ImportError: no"
