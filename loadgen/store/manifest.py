"""The manifest: the circumstances of a run, as in `manifest.json`. Data, and a function that reads it."""

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
MEASUREMENT_EPOCH: Final = 18
"""How many changes have moved a number so far: the number of entries under "Measurement" in CHANGELOG.md, which a test
compares. Runs of different epochs are not compared."""

_RENAMED: Final = {
    "licence": "license",
    "honours_max_tokens": "honors_max_tokens",
    "honours_stop": "honors_stop",
    "honours_seed": "honors_seed",
}
"""Keys of a model card and its probe as older manifests spell them, and as they are spelled now."""


class Probe(Struct, frozen=True, kw_only=True):
    """The findings about one server; None: it could not be determined, or was not asked."""

    usage_in_stream: bool | None = None
    """Whether a stream has token counts if the request asks for them."""
    role_event: bool | None = None
    """Whether an event with the role comes before the first token."""
    keep_alives: int | None = None
    """The largest number of comment lines before a first token."""
    waited_ms: float | None = None
    """The longest wait for a first token."""
    tokens_per_event: float | None = None
    """Output tokens per token-bearing event, without end tokens."""
    characters_per_event: float | None = None
    """Characters of visible text per token-bearing event."""
    reasoning_in_stream: bool | None = None
    """Whether a stream contains reasoning."""
    hidden_tokens: int | None = None
    """The largest number of output tokens of one answer that `usage` counts and no event showed."""
    completion_text: bool | None = None
    """Whether a stream has its text in `choices[].text`, as a completion has it, in place of a delta."""
    honors_max_tokens: bool | None = None
    honors_stop: bool | None = None
    honors_seed: bool | None = None
    """Whether the server honors these keys of a request."""
    parallel_streams: int | None = None
    """The largest number of streams that ran at the same moment, out of `parallel_asked`."""
    parallel_asked: int | None = None
    scaling: float | None = None
    """The rate of token-bearing events of all streams together, while that many ran, divided by that of one stream."""
    stops_on_close: bool | None = None
    """Whether the server stops generating when a stream is closed."""
    stops_on_close_by: str | None = None
    """How that was determined, or why it was not."""
    stopped_after_ms: float | None = None
    """How long it took to stop, by the server's own report."""
    took_s: float | None = None
    """How long the probe took."""
    asked_utc: str | None = None
    """When the server was probed, which may be before the run that quotes it; None if it was not."""
    notes: tuple[str, ...] = ()
    """What went wrong during the probe, or was left out."""


class ModelCard(Struct, frozen=True, kw_only=True):
    """The known facts about a model. None means not known, and is not shown."""

    alias: str
    """The name that the scenario uses."""
    id: str
    """The name that the server uses."""
    target: str
    """The name of the target (`loadgen.targets.registry.target_name`)."""
    size_bytes: int | None = None
    """The size on disk."""
    license: str | None = None
    context_tokens: int | None = None
    """The longest prompt and answer together, as served."""
    parameters: int | None = None
    """The number of weights."""
    quantization: str | None = None
    publisher: str | None = None
    device: str | None = None
    """CPU, GPU or NPU."""
    execution_provider: str | None = None
    """ONNX Runtime's name for the code that runs the model on that device."""
    task: str | None = None
    """The task that the model is made for: `chat-completion`."""
    cached: bool | None = None
    """Whether it is already on this device."""
    capabilities: str | None = None
    """Words that its publisher chose, separated by commas or semicolons."""
    listed: bool | UnsetType = UNSET
    """Whether an endpoint's list of models has it; missing if there is no list, or the list was not requested."""
    source: str | None = None
    """Where these facts come from: `/v1/models`, `GGUF`, `foundry-local-sdk`, or an adapter."""


class ServedModel(ModelCard, frozen=True, kw_only=True):
    """A model that was served in a run: its card, how it was started and unloaded, and the findings about its
    server."""

    startup_s: float | None = None
    """From the start of the server's process until it served."""
    load_s: float | None = None
    """The part of `startup_s` in which the model was loaded."""
    settings: dict[str, object] | UnsetType = UNSET
    """The settings with which the server was started."""
    server_version: str | UnsetType = UNSET
    """The version of the server; missing if it is not known."""
    weights: str | UnsetType = UNSET
    """What tells the weights apart from others of the same name: the size and a digest of the model file, or the
    catalog's id with its version; missing if neither is known."""
    cold_start_ms: float | None = None
    """From the start of its loading to its first token."""
    refused_keys: dict[str, str | None] | UnsetType = UNSET
    """The keys of the request body that the server refused in the test chat, each with the key that is sent in its
    place, or None."""
    probe: Probe | UnsetType = UNSET
    keep_warm_pings: int | UnsetType = UNSET
    """How many one-token requests kept the runtime from unloading the model."""
    abandoned_calls: int | UnsetType = UNSET
    """How many calls into an adapter had not returned at the end; the model was then not unloaded."""
    unload_s: float | UnsetType | None = UNSET
    unload_error: str | UnsetType = UNSET
    """Why it was not unloaded."""

    @property
    def known_probe(self) -> Probe | None:
        """The findings about its server; None if there are none."""
        return None if self.probe is UNSET else self.probe


class PromptFacts(Struct, frozen=True):
    """One prompt of a run, without its text."""

    id: str
    characters: int = 0
    key_points: tuple[str, ...] = ()
    """The points that a good answer mentions."""


class PlannedStage(Struct, frozen=True):
    """One stage of one model, as the manifest has it."""

    model: str
    target: str
    level: str
    load: StageLoad
    planned: int | None
    """The number of measured requests; None if time bounds a closed loop."""
    warmup: int
    skipped: str | None = None
    """Why the model could not be used; None if it could."""
    problem: str | None = None
    """The reason in one word."""
    ramp_in_ns: int = 0
    """In a closed loop, the time from the start of the first user to the start of the last."""
    request_limit_s: float | None = None
    """The time limit of a measured request, s; None if none was played."""
    server_ended: str | None = None
    """How the model's server ended by itself during the stage; None if it did not."""

    @property
    def key(self) -> StageKey:
        return StageKey(self.target, self.model, self.level)


Variant = Literal["A", "B"]
"""The variant of a run, if two were played in alternation; A is the unchanged scenario."""


class SoakStage(Struct, frozen=True):
    """A stage of a soak that has begun: one level of one model, or of several that take turns."""

    level: str
    models: tuple[str, ...]
    targets: tuple[str, ...]
    start_ns: int
    """When its measured requests began, since the beginning of the run."""
    deadline_utc: str
    """When it must end, by the wall clock."""


class SoakFacts(Struct, frozen=True, kw_only=True):
    """How a soak is played, and what one that is resumed needs to know. Its level is that of the scenario."""

    duration_s: float
    window_s: float
    disk_bytes: int
    matters: float
    give_up_s: float
    epoch_utc: str
    """The moment from which all `_ns` count, by the wall clock."""
    scenario_folder: str
    """The folder that paths in the scenario are relative to."""
    deadline_utc: str | None = None
    """When the soak must end, by the wall clock; None until the first measured request."""
    stages: tuple[SoakStage, ...] = ()
    """Those that have begun, in order."""
    resumed: int = 0
    """How many times it was resumed."""
    gave_up: str | None = None
    """Why it ended before its time: a server has answered nothing for too long; None if it did not."""
    run_folder_bytes: int | None = None
    """The size of what was measured, at the end; None until then. What is removed later does not change the reports."""


class Placement(Struct, frozen=True):
    """The place of a run among the runs of two variants."""

    variant: Variant
    block: int
    """From 1; a block that was played again keeps its number."""


class Build(Struct, frozen=True, kw_only=True):
    """What was measured, in the words by which two nights are told apart; None: not known."""

    label: str | None = None
    """The label that the user gave it: `--build`, `LOADGEN_BUILD`, or `build` in the scenario."""
    server: str | None = None
    """The version of the server; of several models, the versions of their servers."""
    model: str | None = None
    """The weights of the model, or of several models: see `ServedModel.weights`."""
    loadgen: str | None = None
    """The version of loadgen."""
    git: str | None = None
    """The commit of the checkout that loadgen runs from."""


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
    """The number of processes that played the run."""
    calibration: CalibrationQuote | None = None
    """The calibration of this machine; None if none is valid."""
    workload: Workload | None = None
    """The work that the plan asks for, whichever server answers; None in manifests of older versions."""
    measurement_epoch: int | None = None
    """The definitions by which the run was measured: see `MEASUREMENT_EPOCH`; None in manifests of older versions."""
    variant: Variant | None = None
    """If two variants were played in alternation, the variant of this run."""
    block: int | None = None
    """If two variants were played in alternation, the block of this run, from 1."""
    soak: SoakFacts | None = None
    """How the soak is played; None for any other run."""
    build: Build | None = None
    """None in manifests of older versions."""

    def card(self, target: str, model: str) -> ServedModel | None:
        """The card of a model; None if it was not served."""
        return next((card for card in self.models if (card.target, card.alias) == (target, model)), None)


def manifest_from(raw: bytes) -> Manifest:
    """The manifest in the text of a `manifest.json`, written by any version with this schema.

    Raises msgspec.MsgspecError or UnicodeDecodeError for any other text.
    """
    data = msgspec.json.decode(raw, type=JsonObject)
    cards = data.get("models")
    if isinstance(cards, list):
        data["models"] = [_readable(card) if isinstance(card, dict) else card for card in cards]
    manifest = msgspec.convert(data, Manifest)
    _check_texts(manifest)
    return manifest


def _check_texts(manifest: Manifest) -> None:
    """Raise msgspec.ValidationError for a text that has the right type but cannot be parsed later."""
    try:
        datetime.fromisoformat(manifest.started_utc).timestamp()
    except (ValueError, OverflowError) as error:
        raise msgspec.ValidationError(f"{error} - at `$.started_utc`") from None
    until = manifest.scenario.until
    if until is not None and (wrong := mismatch(until)) is not None:
        raise msgspec.ValidationError(f"{wrong[0]} - at `$.scenario.until`")


def _readable(card: JsonObject) -> JsonObject:
    """A model card with its keys in their current spelling, and without a probe that cannot be read."""
    card = _renamed(card)
    try:
        probe = None if card.get("probe") is None else msgspec.convert(_renamed(card["probe"]), Probe)
    except (msgspec.ValidationError, AttributeError):
        probe = None
    others = {key: value for key, value in card.items() if key != "probe"}
    return others if probe is None else others | {"probe": msgspec.to_builtins(probe)}


def _renamed(data: JsonObject) -> JsonObject:
    return {_RENAMED.get(key, key): value for key, value in data.items()}
