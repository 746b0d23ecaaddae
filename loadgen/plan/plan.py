"""The plan: schedule × prompts as data. What is due when, to which model, before anything is sent. Knows no clock."""

import hashlib
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.plan import arrivals
from loadgen.plan.prompts import Prompt
from loadgen.plan.rng import generator
from loadgen.scenario import Closed, Gamma, Load, Model, Ramp, RatedLoad, Scenario, Trace
from loadgen.scenario.stop_rule import StopRule, stop_rule_of

THINK_CYCLE = 65_536
"""Think times drawn for a closed loop that is bounded by time alone; then they repeat."""


class Level(Struct, frozen=True, omit_defaults=True):
    """The load of one stage. label: names it in records and tags. Rates are a second."""

    label: str
    mode: str
    concurrency: int | None = None
    rate_per_s: float | None = None
    burstiness: float | None = None
    from_per_s: float | None = None
    to_per_s: float | None = None

    def load(self) -> dict[str, Any]:
        """As `summary.json` says it: the mode and its own numbers."""
        told: dict[str, Any] = msgspec.to_builtins(self)
        del told["label"]
        return told


class Planned(Struct, frozen=True):
    """One request. model: index into the plan's models. index: within its model, level and phase. prompt: index into
    the plan's prompts. due_ns: from the stage's start (None in a closed loop). think_ns: the pause after its answer."""

    model: int
    index: int
    prompt: int
    due_ns: int | None = None
    think_ns: int = 0


class Stage(Struct, frozen=True):
    """One level, played by one model, or by several that take turns; or one part of it, which one of several processes
    plays.

    count: measured requests of all its models; None: as many as start within duration_ns. due_ns: int64 offsets of an
    open loop, by position. think_ns: int64, cycled over the whole stage. ramp_in_ns: when each user of a closed loop
    begins. warmup: requests a model before the measured ones. at_limit: what becomes of a request that comes due when
    max_in_flight others are under way. until: ends it early; count and duration_ns are then the most that is played.

    Part k of n (see `parts`) numbers its own requests from 0: count, due_ns, ramp_in_ns and the limits are the part's;
    level, models, warmup, think_ns and duration_ns remain the whole stage's.
    """

    level: Level
    models: tuple[int, ...]
    warmup: int
    prompts: int
    count: int | None
    duration_ns: int | None
    due_ns: NDArray[np.int64] | None = None
    think_ns: NDArray[np.int64] | None = None
    ramp_in_ns: NDArray[np.int64] | None = None
    max_in_flight: int | None = None
    max_requests_per_s: int | None = None
    at_limit: Literal["shed", "queue"] = "shed"
    until: StopRule | None = None
    part: int = 0
    of: int = 1

    @property
    def users(self) -> int | None:
        """Users of a closed loop that are played here; None in an open loop."""
        if self.due_ns is not None:
            return None
        return share_of(self.level.concurrency or 1, self.part, self.of)

    @property
    def streams(self) -> int | None:
        """How many streams a stage, or a part of one, may hold at once; None where only the server decides."""
        return self.users or self.max_in_flight

    def request(self, position: int) -> Planned:
        """The measured request at a position of what is played here: models take turns, prompts go round."""
        whole = self._whole(position)
        turn, index = whole % len(self.models), whole // len(self.models)
        return Planned(
            model=self.models[turn],
            index=index,
            prompt=index % self.prompts,
            due_ns=None if self.due_ns is None else int(self.due_ns[position]),
            think_ns=0 if self.think_ns is None else int(self.think_ns[whole % len(self.think_ns)]),
        )

    def _whole(self, position: int) -> int:
        """Where in the whole stage a position of this part is. Of an open loop, each n-th request; of a closed one,
        position p belongs to user p % c, and user u to part u % n, so that work is shared out as users are."""
        users = self.users or 1
        every = self.of if self.due_ns is not None else self.level.concurrency or 1
        return position // users * every + self.part + position % users * self.of

    def warmup_request(self, position: int) -> Planned:
        """The warm-up request at a position of those that are played here. Prompts are taken from the end, so that no
        prompt is met twice at once."""
        whole = self.part + position * self.of
        turn, index = whole % len(self.models), whole // len(self.models)
        return Planned(model=self.models[turn], index=index, prompt=(self.prompts - 1 - index) % self.prompts)

    @property
    def warmup_count(self) -> int:
        """Warm-up requests that are played here, of all models together."""
        return share_of(self.warmup * len(self.models), self.part, self.of)

    @property
    def promised(self) -> bool:
        """Whether all of its requests are to be sent; not where time ends a closed loop, or what is known ends it."""
        return self.count is not None and self.until is None and (self.due_ns is not None or self.duration_ns is None)

    def planned_of(self, model: int) -> int | None:
        """Measured requests of the whole stage to one of its models; None where it is not `promised`."""
        if self.count is None or not self.promised:
            return None
        turn = self.models.index(model)
        return (self.count - turn + len(self.models) - 1) // len(self.models)


def share_of(whole: int, part: int, of: int) -> int:
    """How many of `whole` things, dealt out in turn, part number `part` of `of` gets."""
    return (whole - part + of - 1) // of


def parts(stage: Stage, workers: int) -> tuple[Stage, ...]:
    """A whole stage divided among so many processes: together they hold each request once, as it was planned.

    There are no more parts than the stage has users, requests or places within its limits, so that none gets 0 of
    them; limits are divided, and add up to the whole. ValueError for a stage that is itself a part.
    """
    if stage.of != 1:
        raise ValueError("a part of a stage is not divided again")
    bounds = (stage.users, stage.count, stage.max_in_flight, stage.max_requests_per_s)
    of = max(1, min(workers, *(bound for bound in bounds if bound is not None)))
    return (stage,) if of == 1 else tuple(_part(stage, part, of) for part in range(of))


def _part(stage: Stage, part: int, of: int) -> Stage:
    def share(whole: int | None) -> int | None:
        return None if whole is None else share_of(whole, part, of)

    def dealt(offsets: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
        return None if offsets is None else arrivals.shard(offsets, part, of)

    count = share(stage.count)
    if stage.users is not None and stage.count is not None:
        rounds, rest = divmod(stage.count, stage.users)
        count = rounds * share_of(stage.users, part, of) + share_of(rest, part, of)
    return msgspec.structs.replace(
        stage,
        count=count,
        due_ns=dealt(stage.due_ns),
        ramp_in_ns=dealt(stage.ramp_in_ns),
        max_in_flight=share(stage.max_in_flight),
        max_requests_per_s=share(stage.max_requests_per_s),
        part=part,
        of=of,
    )


class Plan(Struct, frozen=True):
    """Everything that will be sent: stages in the order in which they are played."""

    scenario: Scenario
    prompts: tuple[Prompt, ...]
    stages: tuple[Stage, ...]

    @property
    def models(self) -> tuple[Model, ...]:
        return self.scenario.models


def make_plan(scenario: Scenario, prompts: tuple[Prompt, ...], trace_ns: NDArray[np.int64] | None = None) -> Plan:
    """The plan of a scenario. trace_ns: the offsets of a `trace` load, which the caller has read from its file."""
    everyone = tuple(range(len(scenario.models)))
    groups = [everyone] if scenario.order == "interleaved" else [(model,) for model in everyone]
    stages = tuple(
        _stage(scenario, level, group, len(prompts), trace_ns) for group in groups for level in levels(scenario.load)
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


def _stage(
    scenario: Scenario, level: Level, models: tuple[int, ...], prompts: int, trace_ns: NDArray[np.int64] | None
) -> Stage:
    load, seed = scenario.load, scenario.seed
    if isinstance(load, Closed):
        return _closed_stage(scenario, load, level, models, prompts)
    match load:
        case Ramp():
            chance = generator(seed, "ramp")
            due = arrivals.ramp_ns(load.from_per_s, load.to_per_s, load.duration_s, load.arrivals, chance)
        case Trace():
            if trace_ns is None:
                raise ValueError("a trace load needs its offsets")
            due = trace_ns
        case _:
            due = _rated(load, level, seed, len(models))
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
        until=_goal(scenario),
    )


def _rated(load: RatedLoad, level: Level, seed: int, models: int) -> NDArray[np.int64]:
    """`requests` counts per model; the rate is that of all models of the stage together."""
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
        chance = generator(scenario.seed, "think", level.label)
        thinks = arrivals.think_times_ns(load.think_time, count or THINK_CYCLE, chance)
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
        until=_goal(scenario),
    )


def _goal(scenario: Scenario) -> StopRule | None:
    return None if scenario.until is None else stop_rule_of(scenario.until)


def _ns(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1e9)


def digest(plan: Plan) -> str:
    """SHA-256 of all that decides what is sent and when; equal for equal plans, on every platform.

    Where a model is served does not enter (the same plan may be played against two servers); its name does.
    """
    told = hashlib.sha256()

    def add(value: object) -> None:
        told.update(msgspec.json.encode(value, order="deterministic"))
        told.update(b"\x1e")

    add([[prompt.id, prompt.text] for prompt in plan.prompts])
    add([model.name for model in plan.models])
    add([plan.scenario.system, plan.scenario.sampling])
    if plan.scenario.retries.attempts:
        add(["retries", plan.scenario.retries])
    for stage in plan.stages:
        bounds = [stage.count, stage.duration_ns, stage.warmup, stage.max_in_flight, stage.max_requests_per_s]
        # What came later enters only where it is used: a plan that does without has the digest that it always had.
        later = [*([stage.at_limit] if stage.at_limit != "shed" else []), *([stage.until] if stage.until else [])]
        add([stage.level, stage.models, bounds, *later])
        for offsets in (stage.due_ns, stage.think_ns, stage.ramp_in_ns):
            told.update(b"-" if offsets is None else np.ascontiguousarray(offsets, dtype="<i8").tobytes())
            told.update(b"\x1e")
    return told.hexdigest()
