"""The plan as data: every request with its due time, prompt and model, before anything is sent. Knows no clock."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from loadgen.plan import arrivals
from loadgen.plan.prompts import Prompt
from loadgen.plan.rng import generator
from loadgen.record import LatencyOrigin
from loadgen.scenario import Closed, Gamma, Load, Model, Ramp, RatedLoad, Sampling, Scenario, Trace
from loadgen.scenario.stop_rule import StopRule, stop_rule_of

THINK_CYCLE = 65_536
"""How many think times are drawn for a closed loop that only time bounds; after them, they repeat."""


class StageLoad(Struct, frozen=True, omit_defaults=True):
    """The load of one stage as in the manifest and the summary: the mode and its numbers. Rates are per second."""

    mode: str
    concurrency: Annotated[int, Meta(ge=1)] | None = None
    rate_per_s: float | None = None
    burstiness: float | None = None
    from_per_s: float | None = None
    to_per_s: float | None = None

    @property
    def is_closed(self) -> bool:
        """Whether this is a closed loop."""
        return self.mode == "closed"

    @property
    def latency_origin(self) -> LatencyOrigin:
        return "sent" if self.is_closed else "intended"


class Level(Struct, frozen=True, omit_defaults=True):
    """The load of one stage. Numbers that do not belong to its mode are None."""

    label: str
    """The name of the level in records and file names: `c8`, `r2.5`."""
    mode: str
    concurrency: int | None = None
    """The number of users of a closed loop."""
    rate_per_s: float | None = None
    burstiness: float | None = None
    from_per_s: float | None = None
    """The first rate of a ramp."""
    to_per_s: float | None = None
    """The last rate of a ramp."""

    def load(self) -> StageLoad:
        """The load as in the manifest and the summary, without the label."""
        return msgspec.convert(self, StageLoad, from_attributes=True)


class Planned(Struct, frozen=True):
    """One request."""

    model: int
    """The index into the plan's models."""
    index: int
    """The number of the request within its model, level and phase."""
    prompt: int
    """The index into the plan's prompts."""
    due_ns: int | None = None
    """The due time, from the stage's start; None in a closed loop."""
    think_ns: int = 0
    """The think time after its answer."""


class Stage(Struct, frozen=True):
    """One level played with one model, or with several that take turns; or the part of it that one worker plays.

    Part k of n (see `parts`) numbers its own requests from 0. Its `count`, `due_ns`, `ramp_in_ns` and limits are those
    of the part; `level`, `models`, `warmup`, `think_ns` and `duration_ns` are those of the stage.
    """

    level: Level
    models: tuple[int, ...]
    """Indices into the plan's models."""
    warmup: int
    """The number of warm-up requests per model."""
    prompts: int
    """The number of prompts in the plan."""
    count: int | None
    """Measured requests of all models together; None: as many as start within `duration_ns`."""
    duration_ns: int | None
    """How long requests may start; None: until all have started."""
    due_ns: NDArray[np.int64] | None = None
    """The due time of each request of an open loop, from the stage's start, by position; None in a closed loop."""
    think_ns: NDArray[np.int64] | None = None
    """Think times by position in the stage, repeated in a cycle; None: no think time."""
    ramp_in_ns: NDArray[np.int64] | None = None
    """The time of each user's first request in a closed loop, from the stage's start."""
    max_in_flight: int | None = None
    """How many requests of an open loop may be in flight; None: any number."""
    max_requests_per_s: int | None = None
    """How many requests of a closed loop may start per second; None: any number."""
    min_count: int = 0
    """How many measured requests of a closed loop, of all models together, start even if `duration_ns` is over. Each
    user sends the same number of them; otherwise some users would stop early, and the load would be below the level."""
    at_limit: Literal["shed", "queue"] = "shed"
    """What happens to a request that comes due when `max_in_flight` is reached."""
    until: StopRule | None = None
    """Ends the stage early; `count` and `duration_ns` then set the maximum that is played."""
    visit: int = 0
    """The number of this stage among those of its level, from 1, if stages are chosen during the run. Such a stage may
    be ended early. 0: the stage was planned before the run."""
    first_prompt: int = 0
    """The prompt of its first measured request."""
    first_position: int = 0
    """The position in the stage of its first measured request; those before were played by an earlier process."""
    open_ended: bool = False
    """Whether the stage may end at any time: a request that was not sent by then is not missing."""
    late_after_ns: tuple[int, ...] = ()
    """After each of these times, a measured request that is still open is passed to the sinks as it stands."""
    part: int = 0
    """The number of this part of the stage."""
    part_count: int = 1
    """The number of parts into which the stage is divided."""

    @property
    def latency_origin(self) -> LatencyOrigin:
        return self.level.load().latency_origin

    @property
    def users(self) -> int | None:
        """The number of users of a closed loop in this part; None in an open loop."""
        if self.due_ns is not None:
            return None
        return part_size(self.level.concurrency or 1, self.part, self.part_count)

    @property
    def streams(self) -> int | None:
        """The maximum number of streams at once in this part; None if only the server limits it."""
        return self.users or self.max_in_flight

    def request(self, position: int) -> Planned:
        """The measured request at a position of this part. Models take turns, and prompts repeat in a cycle."""
        position_in_stage = self._position_in_stage(position) + self.first_position
        index, turn = divmod(position_in_stage, len(self.models))
        return Planned(
            model=self.models[turn],
            index=index,
            prompt=(self.first_prompt + index) % self.prompts,
            due_ns=None if self.due_ns is None else int(self.due_ns[position]),
            think_ns=0 if self.think_ns is None else int(self.think_ns[position_in_stage % len(self.think_ns)]),
        )

    def _position_in_stage(self, position: int) -> int:
        """The position in the stage for a position of this part. In an open loop, a part has every n-th request. In a
        closed loop, position p belongs to user p % c, and user u to part u % n, so requests are divided like users."""
        users = self.users or 1
        every = self.part_count if self.due_ns is not None else self.level.concurrency or 1
        return position // users * every + self.part + position % users * self.part_count

    def warmup_request(self, position: int) -> Planned:
        """The warm-up request at a position of this part. Its prompt comes from the end of the list, so that the first
        measured requests do not repeat it."""
        index, turn = divmod(self.part + position * self.part_count, len(self.models))
        return Planned(model=self.models[turn], index=index, prompt=(self.prompts - 1 - index) % self.prompts)

    @property
    def warmup_count(self) -> int:
        """The number of warm-up requests in this part, of all models together."""
        return part_size(self.warmup * len(self.models), self.part, self.part_count)

    @property
    def promised(self) -> bool:
        """Whether every request of the stage gets a record, sent or not. False if time ends a closed loop, or if the
        stage may end early: then a request that was not sent does not count as missing."""
        may_end = self.open_ended or self.count is None or self.until is not None or self.visit > 0
        return not may_end and (self.due_ns is not None or self.duration_ns is None)

    def planned_of(self, model: int) -> int | None:
        """The measured requests of the undivided stage to one of its models; None if the stage is not `promised`."""
        if self.count is None or not self.promised:
            return None
        turn = self.models.index(model)
        return (self.count - turn + len(self.models) - 1) // len(self.models)


def part_size(count: int, part: int, part_count: int) -> int:
    """How many of `count` things part number `part` of `part_count` gets if they are handed out in turn."""
    return (count - part + part_count - 1) // part_count


def parts(stage: Stage, workers: int) -> tuple[Stage, ...]:
    """The parts of a stage for a number of processes. Together, they have each request once, as it was planned.

    There are no more parts than the stage has users, requests or places within its limits, so that no part gets 0 of
    them. The limits of the parts add up to those of the stage. ValueError for a stage that is itself a part.
    """
    if stage.part_count != 1:
        raise ValueError("a part of a stage is not divided again")
    bounds = (stage.users, stage.count, stage.max_in_flight, stage.max_requests_per_s)
    part_count = max(1, min(workers, *(bound for bound in bounds if bound is not None)))
    return (stage,) if part_count == 1 else tuple(_part(stage, part, part_count) for part in range(part_count))


def _part(stage: Stage, part: int, part_count: int) -> Stage:
    def size(count: int | None) -> int | None:
        return None if count is None else part_size(count, part, part_count)

    def shard(offsets: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
        return None if offsets is None else arrivals.shard(offsets, part, part_count)

    count = size(stage.count)
    if stage.users is not None and stage.count is not None:
        rounds, rest = divmod(stage.count, stage.users)
        count = rounds * part_size(stage.users, part, part_count) + part_size(rest, part, part_count)
    return msgspec.structs.replace(
        stage,
        count=count,
        due_ns=shard(stage.due_ns),
        ramp_in_ns=shard(stage.ramp_in_ns),
        max_in_flight=size(stage.max_in_flight),
        max_requests_per_s=size(stage.max_requests_per_s),
        min_count=part_size(stage.min_count, part, part_count),
        part=part,
        part_count=part_count,
    )


class Plan(Struct, frozen=True):
    """The requests of a run: its stages, in the order in which they are played. `targets.extra_chats` lists the chats
    outside the stages."""

    scenario: Scenario
    prompts: tuple[Prompt, ...]
    stages: tuple[Stage, ...]
    remarks: tuple[str, ...] = ()
    """Lines for the user about how the plan was made, such as skipped rows of a file of prompts."""

    @property
    def models(self) -> tuple[Model, ...]:
        return self.scenario.models


def make_plan(scenario: Scenario, prompts: tuple[Prompt, ...], trace_ns: NDArray[np.int64] | None = None) -> Plan:
    """The plan of a scenario. trace_ns: the offsets of a `trace` load, which the caller has read from its file."""
    everyone = tuple(range(len(scenario.models)))
    groups = [everyone] if scenario.order == "interleaved" else [(model,) for model in everyone]
    stages = tuple(
        stage_of(scenario, level, group, len(prompts), trace_ns) for group in groups for level in levels(scenario.load)
    )
    return Plan(scenario=scenario, prompts=prompts, stages=stages)


def levels(load: Load) -> Iterator[Level]:
    """The levels of a load, in order."""
    match load:
        case Closed():
            for users in load.concurrency:
                yield Level(label=f"c{users}", mode="closed", concurrency=users)
        case Ramp():
            label = f"ramp{load.from_per_s:g}-{load.to_per_s:g}"
            yield Level(label=label, mode="ramp", from_per_s=load.from_per_s, to_per_s=load.to_per_s)
        case Trace():
            yield Level(label="trace", mode="trace")
        case Gamma():
            for rate in load.rates_per_s:
                yield Level(label=f"r{rate:g}", mode="gamma", rate_per_s=rate, burstiness=load.burstiness)
        case _:
            mode = type(load).__name__.lower()
            for rate in load.rates_per_s:
                yield Level(label=f"r{rate:g}", mode=mode, rate_per_s=rate)


def stage_of(
    scenario: Scenario, level: Level, models: tuple[int, ...], prompts: int, trace_ns: NDArray[np.int64] | None = None
) -> Stage:
    """The stage of one level of the scenario's load. prompts: the number of prompts. trace_ns: as in `make_plan`."""
    load, seed = scenario.load, scenario.seed
    if isinstance(load, Closed):
        return _closed_stage(scenario, load, level, models, prompts)
    match load:
        case Ramp():
            rng = generator(seed, "ramp")
            due = arrivals.ramp_ns(load.from_per_s, load.to_per_s, load.duration_s, load.arrivals, rng)
        case Trace():
            if trace_ns is None:
                raise ValueError("a trace load needs its offsets")
            due = trace_ns
        case _:
            due = _rated_due_ns(load, level, seed, len(models))
    return Stage(
        level=level,
        models=models,
        warmup=scenario.warmup_requests,
        prompts=prompts,
        count=len(due),
        duration_ns=_ns(getattr(load, "duration_s", None)),
        due_ns=due,
        max_in_flight=load.max_in_flight,
        at_limit=load.at_limit,
        until=_stop_rule(scenario),
    )


def _rated_due_ns(load: RatedLoad, level: Level, seed: int, models: int) -> NDArray[np.int64]:
    """The due times of a rated level. `requests` is per model; the rate is that of all models of the stage together."""
    if level.rate_per_s is None:
        raise ValueError("a rated level has a rate")
    requests = load.requests if load.requests or load.duration_s else arrivals.DEFAULT_REQUESTS
    scaled = msgspec.structs.replace(load, requests=requests * models if requests else None)
    return arrivals.arrivals_ns(scaled, level.rate_per_s, seed)


def _closed_stage(scenario: Scenario, load: Closed, level: Level, models: tuple[int, ...], prompts: int) -> Stage:
    users = level.concurrency or 1
    per_model = load.requests if load.requests or load.duration_s else arrivals.DEFAULT_REQUESTS
    count = per_model * len(models) if per_model else None
    thinks = None
    if load.think_time.mean_s > 0:
        rng = generator(scenario.seed, "think", level.label)
        thinks = arrivals.think_times_ns(load.think_time, count or THINK_CYCLE, rng)
    ramp_in_s = load.ramp_in_s if load.ramp_in_s is not None else arrivals.default_ramp_in_s(load, users)
    return Stage(
        level=level,
        models=models,
        warmup=scenario.warmup_requests,
        prompts=prompts,
        count=count,
        duration_ns=_ns(load.duration_s),
        think_ns=thinks,
        ramp_in_ns=arrivals.ramp_in_ns(users, ramp_in_s),
        max_requests_per_s=load.max_requests_per_s,
        min_count=-((load.min_requests or 0) * len(models) // -users) * users,
        until=_stop_rule(scenario),
    )


def _stop_rule(scenario: Scenario) -> StopRule | None:
    return None if scenario.until is None else stop_rule_of(scenario.until)


def _ns(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1e9)


RefusedKeys = Mapping[str, str | None]
"""The keys of the request body that a server refuses, each with the key that is sent in its place, or None."""


def parts_sent(prompt: Prompt) -> list[object]:
    """The parts of a prompt that its request contains."""
    return [prompt.id, prompt.text, *([prompt.messages, prompt.tools] if prompt.messages else [])]


def digest(plan: Plan, refused: Mapping[int, RefusedKeys] | None = None) -> str:
    """SHA-256 of everything that decides what is sent and when; equal for equal plans, on every platform.

    The name of a model enters, but not its address, because the same plan may be played against two servers. refused:
    by the index of a model, the keys that its server refuses, which are then not sent.
    """
    sha256 = hashlib.sha256()

    def add(value: object) -> None:
        sha256.update(msgspec.json.encode(value, order="deterministic"))
        sha256.update(b"\x1e")

    add([parts_sent(prompt) for prompt in plan.prompts])
    add([model.name for model in plan.models])
    add([plan.scenario.system, _used(plan.scenario.sampling)])
    for index, keys in sorted((refused or {}).items()):
        if keys:
            add(["refused", index, dict(keys)])
    if plan.scenario.retries.attempts:
        add(["retries", plan.scenario.retries])
    for stage in plan.stages:
        bounds = [stage.count, stage.duration_ns, stage.warmup, stage.max_in_flight, stage.max_requests_per_s]
        # Newer features enter only if they are used, so that older plans keep their digest.
        later = [*([stage.at_limit] if stage.at_limit != "shed" else []), *([stage.until] if stage.until else [])]
        later += [["at least", stage.min_count]] if stage.min_count else []
        later += [["visit", stage.visit, stage.first_prompt]] if stage.visit else []
        add([stage.level, stage.models, bounds, *later])
        for offsets in (stage.due_ns, stage.think_ns, stage.ramp_in_ns):
            sha256.update(b"-" if offsets is None else np.ascontiguousarray(offsets, dtype="<i8").tobytes())
            sha256.update(b"\x1e")
    return sha256.hexdigest()


def _used(sampling: Sampling) -> msgspec.Raw:
    """A sampling as JSON, in the order of its fields. `omit` is a newer field, and enters only if it is not empty."""
    names = [name for name in sampling.__struct_fields__ if name != "omit" or sampling.omit]
    pairs = [(name, msgspec.json.encode(getattr(sampling, name), order="deterministic")) for name in names]
    return msgspec.Raw(b"{" + b",".join(b'"%b":%b' % (name.encode(), value) for name, value in pairs) + b"}")
