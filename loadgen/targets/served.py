"""What a target returns for a model that it serves: where to send requests, and the model's card. Knows no
measurement."""

from collections.abc import Callable, Mapping

import msgspec
from msgspec import Struct

from loadgen.child import Child
from loadgen.record import JsonObject
from loadgen.store.manifest import ModelCard
from loadgen.targets.adapter.in_process import InProcess

OnProgress = Callable[[str, float | None], None]
"""Called with what a target is doing, and how much of it is done (0 to 1; None if not known)."""


class UnloadInfo(Struct, kw_only=True, omit_defaults=True):
    """Facts about the end of a model's serving, filled in during and after it. None: not known."""

    keep_warm_pings: int | None = None
    """How many pings kept it loaded."""
    unload_s: float | None = None
    """How long it took to unload."""
    unload_error: str | None = None
    """Why it was not unloaded."""
    abandoned_calls: int | None = None
    """How many calls of an adapter had not returned. If there are any, the model is not unloaded."""


class ModelList(Struct, frozen=True):
    """A server's answer to the request for its list of models."""

    entries: tuple[JsonObject, ...] = ()
    status: int | None = None
    """The answer's status; None: no answer came."""
    error: str | None = None
    """Why there are no entries, in one line; None if there are some."""

    @property
    def names(self) -> tuple[str, ...]:
        """All names under which the models are listed, aliases too."""
        names = (str(name) for entry in self.entries for name in (entry.get("id"), *_aliases(entry)))
        return tuple(dict.fromkeys(names))


def _aliases(entry: JsonObject) -> list[object]:
    aliases = entry.get("aliases")
    return aliases if isinstance(aliases, list) else []


class Served(Struct, frozen=True, kw_only=True):
    """A served model."""

    base_url: str
    """The base URL of the API, from `loadgen.scenario.urls.base_url`. Empty if an adapter answers."""
    chat_url: str | None = None
    """Where the server redirects chats to, on the same server; None: they are answered where they are sent."""
    card: ModelCard
    models: ModelList = ModelList()
    """The server's list of models; empty if it was not requested."""
    adapter: InProcess | None = None
    """The model in this process; None if a server has it."""
    headers: dict[str, str] = {}
    extra: JsonObject = {}
    """Keys that the body of every request needs for this target."""
    refused_keys: dict[str, str | None] = {}
    """Keys of the body that the server refused, each with the key that is sent in its place, or None."""
    test_chat_ns: int | None = None
    """How long the test chat took, from its dispatch to the end of its answer; None without a test chat."""
    pid: int | None = None
    """The server's process; None if it is not known, or may not be measured."""
    startup_s: float | None = None
    """The time from the start of the process until it served."""
    load_s: float | None = None
    """The part of `startup_s` in which the model was loaded."""
    keep_warm_s: float | None = None
    """After this long without a request a ping is sent; None: never."""
    settings: Mapping[str, str | int | None] = {}
    """The settings with which the server was started."""
    child: Child | None = None
    """The server's process, if loadgen started it."""
    server_version: str | None = None
    """The version of the server, as it tells it, or as the package tells it that loadgen started it with."""
    weights: str | None = None
    """What tells the model's weights apart from those of an earlier night: `weights_of_file`, or the catalog's id."""
    unload_info: UnloadInfo = msgspec.field(default_factory=UnloadInfo)
