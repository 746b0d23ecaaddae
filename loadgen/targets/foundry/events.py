"""What Foundry Local's process tells its parent, one JSON line an event. Knows no process and no SDK."""

from collections.abc import Callable

from msgspec import Struct


class VariantCard(Struct, frozen=True, kw_only=True):
    """What the catalog says of a variant; fields as those of `loadgen.targets.served.ModelCard`."""

    alias: str
    id: str
    size_bytes: int | None = None
    license: str | None = None
    task: str | None = None
    device: str | None = None
    execution_provider: str | None = None
    context_tokens: int | None = None
    publisher: str | None = None
    cached: bool | None = None
    capabilities: str | None = None


class CatalogListed(Struct, frozen=True, tag_field="event", tag="models"):
    """All variants of the catalog."""

    models: tuple[VariantCard, ...]


class VariantFound(Struct, frozen=True, tag_field="event", tag="found"):
    """The catalog has the model that was asked for."""

    card: VariantCard


class DownloadProgress(Struct, frozen=True, tag_field="event", tag="download"):
    percent: float


class DownloadFailed(Struct, frozen=True, tag_field="event", tag="retry"):
    """A try of the download has failed, because of `problem`."""

    number: int
    tries: int
    problem: str


class LoadingModel(Struct, frozen=True, tag_field="event", tag="loading"):
    """The model is in the cache, and is being loaded."""


class ServingModel(Struct, frozen=True, tag_field="event", tag="serving"):
    """The web service answers for the model."""

    url: str
    pid: int
    card: VariantCard
    load_s: float
    version: str | None
    """Of the SDK."""


class ModelUnloaded(Struct, frozen=True, tag_field="event", tag="unloaded"):
    seconds: float


class StopFailed(Struct, frozen=True, tag_field="event", tag="note"):
    """A step of the orderly end has failed."""

    text: str


class StartFailed(Struct, frozen=True, tag_field="event", tag="error"):
    """The model cannot be served. kind: one of a closed set. remedy: what a person can do."""

    kind: str
    message: str
    remedy: str


class ProcessEnds(Struct, frozen=True, tag_field="event", tag="ended"):
    """The last event."""


ServiceEvent = (
    CatalogListed
    | VariantFound
    | DownloadProgress
    | DownloadFailed
    | LoadingModel
    | ServingModel
    | ModelUnloaded
    | StopFailed
    | StartFailed
    | ProcessEnds
)
Send = Callable[[ServiceEvent], None]
