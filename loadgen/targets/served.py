"""What a target hands over once it serves a model: where to send, and the model's card. Knows no measurement."""

from collections.abc import Callable, Mapping

import msgspec
from msgspec import Struct

from loadgen.child import Child
from loadgen.record import JsonObject
from loadgen.store.manifest import ModelCard
from loadgen.targets.adapter.in_process import InProcess

OnProgress = Callable[[str, float | None], None]
"""Is called with what a target is doing, and how much of it is done (0 to 1; None where that is not known)."""


class UnloadInfo(Struct, kw_only=True, omit_defaults=True):
    """What became of a model that is no longer served. Filled while and after it is; what is None is not known."""

    keep_warm_pings: int | None = None
    """How often it was asked for a token so that it stays loaded."""
    unload_s: float | None = None
    """How long it took to unload."""
    unload_error: str | None = None
    """Why it was not unloaded."""
    abandoned_calls: int | None = None
    """Calls of an adapter that had not come back; while there are any, nothing is unloaded."""


class ModelList(Struct, frozen=True):
    """What a server answers when it is asked for its models."""

    entries: tuple[JsonObject, ...] = ()
    status: int | None = None
    """None: no answer came."""
    error: str | None = None
    """Why there are no entries, in one line; None where there are some."""

    @property
    def names(self) -> tuple[str, ...]:
        """All names under which the models are listed, aliases too."""
        names = (str(name) for entry in self.entries for name in (entry.get("id"), *_aliases(entry)))
        return tuple(dict.fromkeys(names))


def _aliases(entry: JsonObject) -> list[object]:
    aliases = entry.get("aliases")
    return aliases if isinstance(aliases, list) else []


class Served(Struct, frozen=True, kw_only=True):
    """A model that is being served."""

    base_url: str
    """Of the API, as `loadgen.scenario.urls.base_url` makes it. Empty where an adapter answers."""
    card: ModelCard
    models: ModelList = ModelList()
    """What the server lists, as far as it was asked."""
    adapter: InProcess | None = None
    """The model in this process, in place of a server."""
    headers: dict[str, str] = {}
    extra: JsonObject = {}
    """What the body of every request needs here."""
    refused_keys: dict[str, str | None] = {}
    """Keys of the body that the server refused, each with the key that is sent in its place (None: none is)."""
    test_chat_ns: int | None = None
    """How long the test chat took, from its dispatch to the end of its answer; None without one."""
    pid: int | None = None
    """The process that it runs in, where we may look at that."""
    startup_s: float | None = None
    """From the start of the process until it served."""
    load_s: float | None = None
    """The model's part of `startup_s`."""
    keep_warm_s: float | None = None
    """After so long without a request it is asked for one token. None: never."""
    settings: Mapping[str, str | int | None] = {}
    """How the server was started."""
    child: Child | None = None
    """The server's process, where we have started it."""
    unload_info: UnloadInfo = msgspec.field(default_factory=UnloadInfo)
