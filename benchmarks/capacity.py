"""How often `loadgen capacity` claims what is not so, on queues whose capacity is known. Beside two other ways.

`python benchmarks/capacity.py [--quick]` simulates and prints the tables of docs/capacity.md; it ends with 1 when a
rate is outside its line. Searches are those of the program (next_step, VisitLooks, VisitTally), with records in virtual
time, 600 s each at a confidence of 95 %. Wrong: `holds` above the truth or `fails` not above it. Near: `capacity`
within max(1, 5 %) of the truth. Done: the search stopped as `shown` or `within`.

The two other ways are what others do: doubling and halving with one minute a level, decided by the share that was seen
(GuideLLM's way), and the percentile of two rounds of requests, averaged over three runs (EvalScope's way).
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from msgspec import Struct, structs
from scipy.special import bdtrc

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.live_searches import FOUR_SLOTS, TWO_SLOTS, search_live
from benchmarks.queues import Queue, Request, closed, opened, record_of, shares_met
from loadgen.decisions.capacity.choose import VisitLooks, next_step
from loadgen.decisions.capacity.known import Known
from loadgen.decisions.capacity.search import NextVisit, SearchKind, SearchSettings, SearchState, StopReason
from loadgen.decisions.capacity.visit import Visit, VisitTally
from loadgen.plan.plan import StageLoad
from loadgen.scenario import Slo
from loadgen.scenario.objective import Objective, objective_of

BUDGET_S: Final = 600.0
SEARCHES: Final = {"users": 60, "rate": 40}
"""Of each queue. The open loops take longer to simulate."""
QUICK_SEARCHES: Final = 6
WRONG: Final = 0.05
CHANCE: Final = 0.01
NEAR_WHERE_DONE: Final = 0.95
CHOICE_MS: Final = 50.0
LOOK_MS: Final = 5.0
TRUTH_REQUESTS: Final = 40_000
COLUMNS: Final = {"ttft": 0, "tpot": 1, "e2e": 2}
Play = Callable[[float, int, np.random.Generator], Iterator[Request]]


class World(Struct, frozen=True):
    """A queue, what must hold, and how it is asked."""

    name: str
    queue: Queue
    objectives: tuple[str, ...]
    between: tuple[float, float]
    """Levels of which the lower one holds and the higher one does not."""
    search: SearchKind = "users"
    first_rate: float = 1.0

    @property
    def settings(self) -> SearchSettings:
        return SearchSettings(
            objectives=tuple(map(objective_of, self.objectives)),
            search=self.search,
            budget_s=BUDGET_S,
            think_s=self.queue.think_s,
            first_rate=self.first_rate,
        )

    def play(self, level: float, burst: int, rng: np.random.Generator) -> Iterator[Request]:
        if self.search == "users":
            return closed(self.queue, int(level), rng)
        return opened(self.queue, level, burst, rng)

    def load(self, level: float) -> StageLoad:
        if self.search == "users":
            return StageLoad("closed", concurrency=int(level))
        return StageLoad("poisson", rate_per_s=level)


FAR: Final = Queue(slots=1, prefill_s=0.1, prefill_sigma=0.1, tokens=(20, 30), itl_s=0.03, host="wander")
ONE_SLOT: Final = Queue(slots=1, prefill_s=0.3, prefill_sigma=0.5, tokens=(10, 60), itl_s=0.03)
WORLDS: Final = (
    World("4 slots", Queue(), ("ttft_p95=2500ms",), (3, 9)),
    World("4 slots, on the edge", Queue(), ("ttft_p95=2030ms",), (3, 9)),
    World("1 slot", ONE_SLOT, ("ttft_p90=6s",), (2, 8)),
    World(
        "64 slots",
        Queue(slots=64, slowdown=0.02, prefill_s=0.2, itl_s=0.02, tokens=(50, 150)),
        ("ttft_p95=1s",),
        (64, 76),
    ),
    World("4 slots, a stall of 4 s each 2 min", Queue(stalls=(120, 4)), ("ttft_p95=2500ms",), (3, 9)),
    World("4 slots, a host with bursts of slowness", Queue(host="bursts"), ("ttft_p95=2500ms",), (3, 9)),
    World("4 slots, a host whose speed wanders", Queue(host="wander"), ("ttft_p95=2500ms",), (2, 9)),
    World("1 slot, long limits, a host whose speed wanders", FAR, ("ttft_p95=12s", "tpot_p95=200ms"), (4, 20)),
    World("4 slots, think 10 s", Queue(think_s=10), ("ttft_p95=2s",), (11, 21)),
    World("2 slots, think 6 s, two objectives", Queue(slots=2, think_s=6), ("ttft_p90=2s", "tpot_p90=100ms"), (3, 9)),
    World(
        "open loop, 1 slot",
        Queue(slots=1, prefill_s=0.1, tokens=(5, 15), itl_s=0.01, slowdown=0),
        ("ttft_p95=1s",),
        (1.5, 5.5),
        "rate",
    ),
    World(
        "open loop, 4 slots",
        Queue(prefill_s=0.05, tokens=(10, 30), itl_s=0.01),
        ("ttft_p95=500ms",),
        (8, 20),
        "rate",
    ),
    World(
        "open loop, batching",
        Queue(slots=None, prefill_s=0.05, tokens=(20, 60), itl_s=0.01, slowdown=0.1),
        ("tpot_p95=40ms",),
        (4, 18),
        "rate",
    ),
)


class Outcome(Struct, frozen=True):
    """What a way of searching said. Levels; None: nothing."""

    holds: float | None
    capacity: float | None
    fails: float | None
    seconds: float
    stopped: StopReason | None = None


def truth_of(world: World) -> float:
    """The highest level that holds in the long run; a rate to within 0.5 %."""
    is_of_users = world.search == "users"
    low, high = world.between
    while high - low > (1 if is_of_users else 0.005 * low):
        middle = float(int(low + high) // 2) if is_of_users else (low + high) / 2
        low, high = (middle, high) if _truly_holds(world, middle) else (low, middle)
    return low


def _truly_holds(world: World, level: float) -> bool:
    objectives = world.settings.objectives
    shares = shares_met(world.play(level, 0, np.random.default_rng(99)), objectives, TRUTH_REQUESTS, 2000)
    return all(share >= each.share for share, each in zip(shares, objectives, strict=True))


def search(world: World, seed: int) -> Outcome:
    """A search by the program, against the queue."""
    settings, state = world.settings, SearchState()
    rng = np.random.default_rng([7, seed])
    while isinstance(step := next_step(state, settings), NextVisit):
        state = state.with_visit(visit_of(world, settings, state, step, rng))
    known = Known(state, settings)
    return Outcome(known.shown.holds, known.capacity, known.shown.fails, state.spent_s, step.reason)


def visit_of(
    world: World, settings: SearchSettings, state: SearchState, step: NextVisit, rng: np.random.Generator
) -> Visit:
    """One visit, looked at as its requests are decided, and drained when it is stopped."""
    load = world.load(step.level)
    tally, looks = VisitTally(settings.objectives, load, Slo()), VisitLooks(state, settings, step)
    requests = world.play(step.level, step.burst, rng)
    taken, ended = 0, 0.0
    next_at = looks.next_at + (int(step.level) if load.is_closed else step.burst)

    def visit() -> Visit:
        return tally.visit(level=step.level, label="", seconds=ended)

    request = next(requests)
    while request.dispatched <= step.seconds:
        tally.take(record_of(request, taken, load))
        taken, ended = taken + 1, max(ended, request.ended)
        if taken >= next_at:
            look = visit()
            if looks.should_stop(look):
                break
            next_at = taken + max(1, looks.next_at - look.requests)
        request = next(requests)
    stopped = min(ended, step.seconds)
    for request in requests:
        if request.dispatched > stopped:
            break
        tally.take(record_of(request, taken, load))
        taken, ended = taken + 1, max(ended, request.ended)
    return visit()


def bisect(probe: Callable[[float], tuple[bool, float]], start: float, within: float, least: float) -> Outcome:
    """Doubling, then halving, one look a level. probe: whether a level looks good, and how long that took, s."""
    good, bad, at, spent = 0.0, None, start, 0.0
    while bad is None or bad - good > max(least, within * good):
        is_good, seconds = probe(at)
        spent += seconds
        good, bad = (at, bad) if is_good else (good, at)
        at = 2 * at if bad is None else (good + bad) / 2 if not least else float((good + bad) // 2)
        if at <= 1e-3 or spent > 10 * BUDGET_S:
            break
    return Outcome(good, good, bad, spent)


def a_minute_each(world: World, seed: int) -> Outcome:
    """What ended within a minute, its share against the target, at 10 %."""
    rng, settings = np.random.default_rng([8, seed]), world.settings

    def probe(level: float) -> tuple[bool, float]:
        met = []
        for request in world.play(level, 0, rng):
            if request.dispatched > 60.0:
                break
            if request.ended <= 60.0:
                met.append(met_of(request, settings.objectives))
        shares = np.mean(met, axis=0) if met else np.zeros(1)
        return bool(met and (shares >= settings.shares).all()), 60.0

    is_of_users = world.search == "users"
    return bisect(probe, 4.0 if is_of_users else world.first_rate, 0.1, 1.0 if is_of_users else 0.0)


def two_rounds(world: World, seed: int) -> Outcome:
    """The percentile of two rounds, averaged over three runs, to the exact level (rates: to 2.5 %)."""
    rng, settings = np.random.default_rng([9, seed]), world.settings
    is_of_users = world.search == "users"

    def probe(level: float) -> tuple[bool, float]:
        count = 2 * int(level) if is_of_users else 100
        runs = [list(islice(world.play(level, 0, rng), count)) for _ in range(3)]
        is_good = True
        for objective in settings.objectives:
            column = COLUMNS[objective.metric]
            seen = np.mean([np.quantile([r.latencies[column] for r in run], objective.share) for run in runs])
            is_good = is_good and bool(seen <= (objective.limit_ms or 0.0) / 1e3)
        return is_good, sum(max(request.ended for request in run) for run in runs)

    return bisect(probe, 1.0 if is_of_users else world.first_rate, 0.0 if is_of_users else 0.025, float(is_of_users))


def met_of(request: Request, objectives: tuple[Objective, ...]) -> list[bool]:
    return [request.latencies[COLUMNS[each.metric]] <= (each.limit_ms or 0.0) / 1e3 for each in objectives]


class Rates(Struct, frozen=True):
    """How often searches of one world were wrong, near, and done."""

    wrong: float
    near: float
    near_where_done: float | None
    done: float
    low: float
    high: float
    seconds: float


def rates_of(world: World, outcomes: list[Outcome], truth: float) -> Rates:
    """The truth of a rate is known to within 1 %, which is no error of a search."""
    is_of_users = world.search == "users"
    low, high, near_by = (
        (truth, truth, max(1, 0.05 * truth)) if is_of_users else (0.99 * truth, 1.01 * truth, 0.05 * truth)
    )
    wrong = [(o.holds or 0.0) > high or (o.fails is not None and o.fails <= low) for o in outcomes]
    near = [abs((o.capacity or 0.0) - truth) <= near_by for o in outcomes]
    done = [is_near for is_near, o in zip(near, outcomes, strict=True) if o.stopped in {"within", "shown"}]
    return Rates(
        wrong=float(np.mean(wrong)),
        near=float(np.mean(near)),
        near_where_done=float(np.mean(done)) if done else None,
        done=len(done) / len(outcomes),
        low=float(np.median([o.holds or 0.0 for o in outcomes])),
        high=float(np.median([np.inf if o.fails is None else o.fails for o in outcomes])),
        seconds=float(np.median([o.seconds for o in outcomes])),
    )


def line_of(world: World, searches: int) -> tuple[str, list[str]]:
    """One row of the table, and what is outside its line."""
    truth = truth_of(world)
    ours = rates_of(world, [search(world, seed) for seed in range(searches)], truth)
    others = [
        rates_of(world, [way(world, seed) for seed in range(searches)], truth) for way in (a_minute_each, two_rounds)
    ]
    done = "–" if ours.near_where_done is None else f"{ours.near_where_done:.0%} of {ours.done:.0%}"
    unit = "" if world.search == "users" else "/s"
    cells = [
        world.name,
        f"{truth:.3g}{unit}",
        f"{ours.wrong:.0%}",
        f"{ours.near:.0%}",
        done,
        f"{ours.low:.3g} to {ours.high:.3g}",
        f"{ours.seconds:.0f}",
        *(f"{other.wrong:.0%} / {other.near:.0%} / {other.seconds:.0f}" for other in others),
    ]
    outside = []
    if ours.wrong > WRONG:
        outside.append(f"{world.name}: {ours.wrong:.1%} of the searches claim what is not so (line: {WRONG:.0%})")
    if ours.near_where_done is not None and ours.near_where_done < NEAR_WHERE_DONE:
        outside.append(f"{world.name}: {ours.near_where_done:.0%} are near where the search says that it is done")
    return f"| {' | '.join(cells)} |", outside


HEAD: Final = (
    "| queue | truth | wrong | near | near where done | shown (medians) | s | a minute a level: wrong / near / s "
    "| two rounds × 3: wrong / near / s |\n|:---|---:|---:|---:|---:|---:|---:|---:|---:|"
)


LIVE: Final = (
    World("4 slots", FOUR_SLOTS, ("ttft_p95=600ms",), (4, 16)),
    World("2 slots", TWO_SLOTS, ("ttft_p90=400ms", "ok=90%"), (2, 12)),
    World("open loop, 4 slots", FOUR_SLOTS, ("ttft_p90=700ms",), (4, 20), "rate", 4.0),
    World("open loop, 2 slots", TWO_SLOTS, ("ttft_p90=400ms",), (4, 20), "rate", 4.0),
)


def live(searches: int) -> int:
    """Search scripted servers over loopback, and print how often what is claimed is right. 1 if it is more often wrong
    than chance explains."""
    wrong = claims = 0
    for world in LIVE:
        truth = truth_of(world)
        for _ in range(searches):
            rate = world.first_rate if world.search == "rate" else None
            outcome = search_live(world.name, world.queue, world.objectives, rate, truth)
            print(outcome.line, flush=True)
            wrong += outcome.is_wrong
            claims += outcome.claims
    count = searches * len(LIVE)
    print(f"{claims} claims in {count} searches, of which {wrong} made a wrong one")
    return 1 if bdtrc(wrong - 1, count, WRONG) < CHANCE else 0


def speed() -> tuple[str, list[str]]:
    """How much CPU time a choice takes at 512 levels, and a look at 5,000 requests: the best of five."""
    settings = SearchSettings(objectives=(objective_of("ttft_p95=2s"), objective_of("ok=99%")))
    of_rates = structs.replace(settings, search="rate", from_level=0.05, to_level=0.05 * 1.025**511)
    state = SearchState((*(_visit(0.1 * 2**k, 40) for k in range(10)), _visit(60.0, 8)))  # bracketed, nothing shown
    tally = VisitTally(settings.objectives, StageLoad("closed", concurrency=8), Slo())
    for index, request in enumerate(islice(closed(Queue(slots=8), 8, np.random.default_rng(1)), 5008)):
        tally.take(record_of(request, index, StageLoad("closed", concurrency=8)))
    looks = VisitLooks(state, settings, NextVisit(8.0, 10**6, BUDGET_S, "holds"))
    choice_ms = _best_ms(lambda: next_step(state, of_rates))
    look_ms = _best_ms(lambda: looks.should_stop(tally.visit(level=8.0, label="c8", seconds=1.0)))
    levels = len(Known(state, of_rates).steps)
    line = f"Choosing among {levels} levels takes {choice_ms:.1f} ms, a look at 5,000 requests {look_ms:.1f} ms of CPU."
    outside = [f"a choice takes {choice_ms:.1f} ms (line: {CHOICE_MS:.0f})"] if choice_ms > CHOICE_MS else []
    outside += [f"a look takes {look_ms:.1f} ms (line: {LOOK_MS:.0f})"] if look_ms > LOOK_MS else []
    return line, outside


def _visit(level: float, met: int) -> Visit:
    counts, missed = (met, met), (40 - met, 0)
    return Visit(
        level=level, label="", requests=40, met=counts, missed=missed, inflation=(1.0, 1.0), seconds=5.0, played=40
    )


def _best_ms(function: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few searches of each queue, under a minute")
    parser.add_argument("--searches", type=int, help="searches of each queue (default: 60, of open loops 40)")
    parser.add_argument("--live", action="store_true", help="search scripted servers over loopback, about 3 minutes")
    parser.add_argument("--only", help="only queues whose name has this in it")
    arguments = parser.parse_args()
    if arguments.live:
        return live(arguments.searches or 1)
    outside = []
    print(HEAD, flush=True)
    for world in WORLDS:
        if arguments.only is None or arguments.only in world.name:
            searches = QUICK_SEARCHES if arguments.quick else arguments.searches or SEARCHES[world.search]
            line, problems = line_of(world, searches)
            print(line, flush=True)
            outside += problems
    line, problems = speed()
    print(f"\n{line}")
    outside += problems
    for problem in outside:
        print(f"outside its line: {problem}", file=sys.stderr)
    return 1 if outside else 0


if __name__ == "__main__":
    sys.exit(main())
