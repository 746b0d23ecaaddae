"""The manifest: the circumstances of a run, as `manifest.json` has them. Data, and reading it back."""

from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from loadgen.plan.plan import StageLoad
from loadgen.plan.workload import Workload
from loadgen.record import StageKey
from loadgen.scenario import Scenario
from loadgen.scenario.stop_rule import mismatch
from loadgen.store.calibration import CalibrationQuote
from loadgen.telemetry.host import ClockFacts, Host

JsonObject = dict[str, Any]
SCHEMA: Final = "loadgen.manifest/1"
MEASUREMENT_EPOCH: Final = 17
"""How many changes have moved a number so far: the entries under "Measurement" in CHANGELOG.md, which a test counts.
Runs of two epochs are not compared."""

_RENAMED: Final = {
    "licence": "license",
    "honours_max_tokens": "honors_max_tokens",
    "honours_stop": "honors_stop",
    "honours_seed": "honors_seed",
}
"""Keys of a model card, and of the probe in it, as older manifests spell them."""


class Probe(Struct, frozen=True, kw_only=True):
    """What one server does; None: it could not be told, or was not asked."""

    usage_in_stream: bool | None = None
    """Whether it counts tokens in a stream where it is asked to."""
    role_event: bool | None = None
    """Whether it sends the role in an event of its own before the first token."""
    keep_alives: int | None = None
    """The most comment lines in one wait for a first token."""
    waited_ms: float | None = None
    """The longest such wait."""
    tokens_per_event: float | None = None
    """Output tokens a token-bearing event, end tokens left out."""
    reasoning_in_stream: bool | None = None
    """Whether it shows reasoning as such."""
    hidden_tokens: int | None = None
    """The most output tokens of one answer that `usage` counts and no event showed."""
    honors_max_tokens: bool | None = None
    honors_stop: bool | None = None
    honors_seed: bool | None = None
    """Whether these keys of a request do what they say."""
    parallel_streams: int | None = None
    """How many streams were under way at one moment, of `parallel_asked`."""
    parallel_asked: int | None = None
    scaling: float | None = None
    """Token-bearing events a second of all streams, while so many ran, over those of one."""
    stops_on_close: bool | None = None
    """Whether a stream that is closed is generated no further."""
    stops_on_close_by: str | None = None
    """How that was told, or why not."""
    stopped_after_ms: float | None = None
    """By the server's own account."""
    took_s: float | None = None
    """How long asking took."""
    asked_utc: str | None = None
    """When it was asked, which may be before the run that quotes it; None: it was not."""
    notes: tuple[str, ...] = ()
    """What went wrong as it was asked, or was left out."""


class ModelCard(Struct, frozen=True, kw_only=True):
    """What is known of a model. None is not known, and not shown."""

    alias: str
    """The name that the scenario uses."""
    id: str
    """The name that the server uses."""
    target: str
    """As `loadgen.targets.registry.target_name` says it."""
    size_bytes: int | None = None
    """On disk."""
    license: str | None = None
    context_tokens: int | None = None
    """The longest prompt and answer together, as served."""
    parameters: int | None = None
    """How many weights it has."""
    quantization: str | None = None
    publisher: str | None = None
    device: str | None = None
    """CPU, GPU or NPU."""
    execution_provider: str | None = None
    """ONNX Runtime's name for the code that runs the model on that device."""
    task: str | None = None
    """What it is made for: `chat-completion`."""
    cached: bool | None = None
    """Whether it is on this device already."""
    capabilities: str | None = None
    """Words that its publisher chose, separated by commas or semicolons."""
    listed: bool | UnsetType = UNSET
    """Whether an endpoint's list of models has it; missing where there is no list, or it was not asked for."""
    source: str | None = None
    """Who said all this: `/v1/models`, `GGUF`, `foundry-local-sdk`, or an adapter."""


class ServedModel(ModelCard, frozen=True, kw_only=True):
    """A model that was served in a run: its card, how it was started and let go, and what its server was seen to do."""

    startup_s: float | None = None
    """From the start of the server's process until it served."""
    load_s: float | None = None
    """The model's part of `startup_s`."""
    settings: dict[str, object] | UnsetType = UNSET
    """How the server was started."""
    cold_start_ms: float | None = None
    """From the beginning of its loading to its first token."""
    refused_keys: dict[str, str | None] | UnsetType = UNSET
    """Keys of the request body that the server refused in the test chat, each with the key that is sent in its place
    (None: none is)."""
    probe: Probe | UnsetType = UNSET
    keep_warm_pings: int | UnsetType = UNSET
    """Requests for one token that kept it from being put aside."""
    abandoned_calls: int | UnsetType = UNSET
    """Calls into an adapter that still ran when it was let go; it was not unloaded then."""
    unload_s: float | UnsetType | None = UNSET
    unload_error: str | UnsetType = UNSET
    """Why it was not unloaded."""

    @property
    def known_probe(self) -> Probe | None:
        """What its server was seen to do; None where nobody looked."""
        return None if self.probe is UNSET else self.probe


class PromptFacts(Struct, frozen=True):
    """One prompt of a run, without its text."""

    id: str
    characters: int = 0
    key_points: tuple[str, ...] = ()
    """What a good answer names."""


class PlannedStage(Struct, frozen=True):
    """One stage of one model, as the manifest says it."""

    model: str
    target: str
    level: str
    load: StageLoad
    planned: int | None
    """Measured requests; None when time bounds a closed loop."""
    warmup: int
    skipped: str | None = None
    """Why the model could not be used, if so."""
    problem: str | None = None
    """The same in a word."""
    ramp_in_ns: int = 0
    """How long after the first user of a closed loop the last one begins."""
    request_limit_s: float | None = None
    """After how long a measured request was given up, s; None where none was played."""
    server_ended: str | None = None
    """How the model's server ended of itself during the stage, if it did."""

    @property
    def key(self) -> StageKey:
        return StageKey(self.target, self.model, self.level)


Variant = Literal["A", "B"]
"""Which of two variants that were played in alternation a run is of: A is the scenario as it is."""


class Placement(Struct, frozen=True):
    """Where a run stands among those of two variants."""

    variant: Variant
    block: int
    """From 1; a block that was played again keeps its number."""


class Manifest(Struct, frozen=True, kw_only=True):
    """The circumstances of a run."""

    schema: str
    run_id: str
    scenario: Scenario
    started_utc: str
    ended_utc: str | None = None
    state: str = "running"
    """ "running" until the run has ended as "complete" or "interrupted"."""
    plan_digest: str
    stages: tuple[PlannedStage, ...]
    prompts: tuple[PromptFacts, ...]
    stamp_source: str
    clock: ClockFacts
    models: tuple[ServedModel, ...] = ()
    versions: dict[str, str]
    host: Host
    git_commit: str | None = None
    workers: int = 1
    """The processes that played it."""
    calibration: CalibrationQuote | None = None
    """How far this machine is to be trusted; None where no calibration holds."""
    workload: Workload | None = None
    """What its plan asks, whoever serves it; None in manifests that were written before it was kept."""
    measurement_epoch: int | None = None
    """By which definitions it was measured: see `MEASUREMENT_EPOCH`; None as in `workload`."""
    variant: Variant | None = None
    """Where two variants were played in alternation: which of them it is of."""
    block: int | None = None
    """And in which block of two runs, from 1."""

    def card(self, target: str, model: str) -> ServedModel | None:
        """The card of a model that was served; None of one that was not."""
        return next((card for card in self.models if (card.target, card.alias) == (target, model)), None)


def manifest_from(raw: bytes) -> Manifest:
    """The manifest in the text of a `manifest.json`, by any version that wrote this schema.

    Raises msgspec.MsgspecError or UnicodeDecodeError for what is none.
    """
    data = msgspec.json.decode(raw, type=JsonObject)
    cards = data.get("models")
    if isinstance(cards, list):
        data["models"] = [_readable(card) if isinstance(card, dict) else card for card in cards]
    manifest = msgspec.convert(data, Manifest)
    _check_texts(manifest)
    return manifest


def _check_texts(manifest: Manifest) -> None:
    """Raise msgspec.ValidationError for a text of the right type that its readers could not parse."""
    try:
        datetime.fromisoformat(manifest.started_utc).timestamp()
    except (ValueError, OverflowError) as error:
        raise msgspec.ValidationError(f"{error} - at `$.started_utc`") from None
    until = manifest.scenario.until
    if until is not None and (wrong := mismatch(until)) is not None:
        raise msgspec.ValidationError(f"{wrong[0]} - at `$.scenario.until`")


def _readable(card: JsonObject) -> JsonObject:
    """A model card with its keys as they are spelled now, without a probe that we cannot read."""
    card = _renamed(card)
    try:
        probe = None if card.get("probe") is None else msgspec.convert(_renamed(card["probe"]), Probe)
    except (msgspec.ValidationError, AttributeError):
        probe = None
    others = {key: value for key, value in card.items() if key != "probe"}
    return others if probe is None else others | {"probe": msgspec.to_builtins(probe)}


def _renamed(data: JsonObject) -> JsonObject:
    return {_RENAMED.get(key, key): value for key, value in data.items()}
