"""How often `loadgen select` is wrong, and what it can tell, on candidates whose truth is known. Beside other ways.

`python benchmarks/choice.py [--quick]` simulates and prints the tables of docs/select.md; it ends with 1 when a rate is
outside its line. Candidates answer the same prompts, some of which are harder for all of them. The quality of an answer
differs by 15 points more (normal, skewed, or with one answer in seven missing). E2E differs by 20 % from prompt to
prompt, and all times of a run by 5 %. The weights are the defaults, without cost and disk.

The other ways: all pairs at once, but not again when some have left; a percentile bootstrap over prompts; and Student's
t with k − 1 comparisons. The last two do not know of the noise between runs.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from msgspec import Struct
from scipy.stats import binom

from loadgen.decisions.select.criteria import (
    DEFAULT_WEIGHTS,
    MEMORY_NOISE,
    TIME_NOISE,
    Values,
    shares_of,
    steps_of,
)
from loadgen.decisions.select.leader import (
    StepTable,
    Utilities,
    chance_of_first,
    leader_of,
    standard_error,
    utilities_of,
)
from loadgen.stats.mean import student_quantile

SPREAD: Final = 15.0
DIFFICULTY: Final = 12.0
PROMPT_LATENCY: Final = 0.20
MISSING: Final = 0.15
RESAMPLES: Final = 300
SHAPES: Final = ("normal", "skewed", "missing")
WAYS: Final = ("select", "all pairs once", "bootstrap", "t, k − 1")


class Cell(Struct, frozen=True):
    """One world."""

    prompts: int
    candidates: int
    shape: str
    better: float = 0.0
    """By how many points the first candidate is better."""
    behind: tuple[float, ...] = ()
    """By how many points the last candidates are worse."""
    line: float | None = None
    """The share that must not be exceeded where all are alike; else the share that must be reached."""


ALIKE_2: Final = tuple(Cell(n, 2, shape, line=0.06 if n >= 16 else None) for n in (8, 16, 32, 80) for shape in SHAPES)
ALIKE_4: Final = tuple(Cell(n, 4, shape, line=0.06) for n in (16, 32) for shape in SHAPES)
BEST_2: Final = tuple(
    Cell(n, 4, shape, behind=behind, line=0.94)
    for n in (16, 32)
    for shape in ("normal", "skewed")
    for behind in ((5.0, 10.0), (10.0, 20.0), (20.0, 40.0))
)
BETTER: Final = (
    *(Cell(16, 2, shape, 20.0, line=0.90) for shape in ("normal", "skewed")),
    Cell(32, 2, "normal", 20.0, line=0.90),
    Cell(16, 4, "normal", 20.0),
    Cell(32, 4, "normal", 20.0),
    Cell(16, 2, "normal", 10.0),
    Cell(32, 2, "normal", 14.0),
    Cell(80, 2, "normal", 10.0),
)


def quality_of(cell: Cell, rng: np.random.Generator) -> Values:
    """The quality of each answer: candidates × prompts, with the same mean for all but the first."""
    shape = (cell.candidates, cell.prompts)
    match cell.shape:
        case "normal":
            own = rng.standard_normal(shape)
        case "skewed":
            own = rng.exponential(1.0, shape) - 1.0
        case _:
            own = rng.standard_normal(shape)
    quality = 50.0 + DIFFICULTY * rng.standard_normal(cell.prompts) + SPREAD * own
    if cell.shape == "missing":
        quality = quality + 50.0 * MISSING / (1 - MISSING)
        missing = rng.random(cell.prompts) < MISSING  # of one candidate; its other answers are better by as much
        quality[-1] = np.where(missing, 0.0, quality[-1])
        quality[:-1] -= (50.0 + 50.0 * MISSING / (1 - MISSING)) * MISSING
    quality[0] += cell.better
    for place, points in enumerate(reversed(cell.behind), 1):
        quality[-place] -= points
    return np.asarray(quality, dtype=np.float64)


def table_of(cell: Cell, rng: np.random.Generator) -> StepTable:
    """The measured values of one world, in steps."""
    run = 1 + TIME_NOISE * rng.standard_normal(cell.candidates)
    latency = 3000.0 * np.exp(PROMPT_LATENCY * rng.standard_normal((cell.candidates, cell.prompts)) / 2)
    latency *= np.exp(PROMPT_LATENCY * rng.standard_normal(cell.prompts)) * run[:, None]
    memory = 800.0 * (1 + MEMORY_NOISE * rng.standard_normal(cell.candidates))
    return StepTable(
        by_prompt={"quality": steps_of("quality", quality_of(cell, rng)), "latency": steps_of("latency", latency)},
        of_candidate={"memory": steps_of("memory", memory), "throughput": steps_of("throughput", 0.3 / run)},
        runs=np.ones(cell.candidates),
    )


def utilities(cell: Cell, rng: np.random.Generator) -> Utilities:
    table = table_of(cell, rng)
    return utilities_of(table, shares_of(DEFAULT_WEIGHTS, {**table.by_prompt, **table.of_candidate}))


def set_by_select(drawn: Utilities, _: np.random.Generator) -> set[int]:
    return set(leader_of(drawn).not_told_apart)


def set_of_all_pairs(drawn: Utilities, _: np.random.Generator) -> set[int]:
    assert drawn.by_prompt is not None
    first, count = int(np.argmax(drawn.mean)), len(drawn.mean)
    alike = {first}
    for other in set(range(count)) - {first}:
        rows = [first, other]
        pair = Utilities(drawn.by_prompt[rows], drawn.mean[rows], drawn.noise[rows])
        if len(leader_of(pair, 1 - 0.1 / (count * (count - 1))).not_told_apart) > 1:
            alike.add(other)
    return alike


def set_by_bootstrap(drawn: Utilities, rng: np.random.Generator) -> set[int]:
    assert drawn.by_prompt is not None
    first, prompts = int(np.argmax(drawn.mean)), drawn.by_prompt.shape[1]
    weights = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=RESAMPLES) / prompts
    resampled = (drawn.by_prompt[first] - drawn.by_prompt) @ weights.T
    low = np.percentile(resampled, 2.5, axis=1)
    return {first, *(int(other) for other in np.flatnonzero(low <= 0))}


def set_by_t(drawn: Utilities, _: np.random.Generator) -> set[int]:
    assert drawn.by_prompt is not None
    first, (count, prompts) = int(np.argmax(drawn.mean)), drawn.by_prompt.shape
    quantile = student_quantile(1 - 0.025 / max(1, count - 1), prompts - 1)
    alike = {first}
    for other in set(range(count)) - {first}:
        difference = drawn.by_prompt[first] - drawn.by_prompt[other]
        if difference.mean() - quantile * standard_error(difference) <= 0:
            alike.add(other)
    return alike


SETS: Final[dict[str, Callable[[Utilities, np.random.Generator], set[int]]]] = dict(
    zip(WAYS, (set_by_select, set_of_all_pairs, set_by_bootstrap, set_by_t), strict=True)
)


def sets_of(cell: Cell, trials: int, seed: int) -> Iterator[list[set[int]]]:
    """For each trial, the candidates that each way cannot tell apart from the first."""
    rng = np.random.default_rng([7, seed])
    for _ in range(trials):
        drawn = utilities(cell, rng)
        yield [way(drawn, rng) for way in SETS.values()]


def highest_chance(line: float, trials: int) -> float:
    """The share of trials up to which a true rate on its line would come in 99.9 of 100 simulations."""
    return float(binom.ppf(0.999, trials, line)) / trials


def lowest_chance(line: float, trials: int) -> float:
    return float(binom.ppf(0.001, trials, line)) / trials


def table_of_alike(cells: tuple[Cell, ...], trials: int) -> Iterator[tuple[str, bool]]:
    """How often some candidate is called worse although all are alike, and whether that is within its line."""
    yield f"| prompts | candidates | quality | {' | '.join(WAYS)} |", True
    yield "|---:|---:|:---|---:|---:|---:|---:|", True
    for number, cell in enumerate(cells):
        wrong = [[len(alike) < cell.candidates for alike in sets] for sets in sets_of(cell, trials, number)]
        shares = np.mean(wrong, axis=0)
        cells_of_row = [str(cell.prompts), str(cell.candidates), cell.shape, *(f"{share:.1%}" for share in shares)]
        yield f"| {' | '.join(cells_of_row)} |", cell.line is None or shares[0] <= highest_chance(cell.line, trials)


def table_of_better(trials: int) -> Iterator[tuple[str, bool]]:
    """How often the better candidate is found alone, and whether that reaches its line."""
    yield f"| prompts | candidates | quality | better by | {' | '.join(WAYS)} |", True
    yield "|---:|---:|:---|---:|---:|---:|---:|---:|", True
    for number, cell in enumerate(BETTER):
        right = [[alike == {0} for alike in sets] for sets in sets_of(cell, trials, 100 + number)]
        shares = np.mean(right, axis=0)
        head = [str(cell.prompts), str(cell.candidates), cell.shape, f"{cell.better:.0f} points"]
        row = f"| {' | '.join([*head, *(f'{share:.1%}' for share in shares)])} |"
        yield row, cell.line is None or shares[0] >= lowest_chance(cell.line, trials)


def table_of_best(trials: int) -> Iterator[tuple[str, bool]]:
    """How often both of the best two of four are held, and whether that reaches its line."""
    yield f"| prompts | quality | the others are behind by | {' | '.join(WAYS)} |", True
    yield "|---:|:---|:---|---:|---:|---:|---:|", True
    for number, cell in enumerate(BEST_2):
        held = [[{0, 1} <= alike for alike in sets] for sets in sets_of(cell, trials, 200 + number)]
        shares = np.mean(held, axis=0)
        behind = " and ".join(f"{points:.0f}" for points in cell.behind)
        head = [str(cell.prompts), cell.shape, f"{behind} points"]
        row = f"| {' | '.join([*head, *(f'{share:.1%}' for share in shares)])} |"
        yield row, cell.line is None or shares[0] >= lowest_chance(cell.line, trials)


def table_of_chances(trials: int) -> Iterator[tuple[str, bool]]:
    """What `chance of first` says of the first, and how often that is true: the better of two is drawn at random."""
    yield "| prompts | said | true |", True
    yield "|---:|---:|---:|", True
    for prompts in (16, 32):
        rng = np.random.default_rng([8, prompts])
        said, true = [], []
        for _ in range(trials):
            better = float(rng.normal(0.0, 8.0))
            drawn = utilities(Cell(prompts, 2, "normal", better), rng)
            chances = chance_of_first(drawn) or ()
            first = int(np.argmax(drawn.mean))
            said.append(chances[first])
            true.append((better > 0) == (first == 0))
        for low, high in ((0.5, 0.7), (0.7, 0.9), (0.9, 1.01)):
            chosen = [at for at, chance in enumerate(said) if low <= chance < high]
            claim, fact = float(np.mean([said[at] for at in chosen])), float(np.mean([true[at] for at in chosen]))
            yield f"| {prompts} | {claim:.0%} | {fact:.0%} |", abs(claim - fact) <= 0.08


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the trials")
    trials = 400 if parser.parse_args().quick else 2000
    tables = (
        ("Two alike, one of which is called better", table_of_alike(ALIKE_2, trials)),
        ("Four alike, one of which is called worse", table_of_alike(ALIKE_4, trials)),
        ("The best two of four are both held", table_of_best(trials)),
        ("The better one is found alone", table_of_better(trials)),
        ("How true the chance of being first is", table_of_chances(trials)),
    )
    outside = 0
    for title, lines in tables:
        print(f"\n{title}:\n")
        for line, is_within in lines:
            print(line if is_within else f"{line}  <- outside its line", flush=True)
            outside += not is_within
    return 1 if outside else 0


if __name__ == "__main__":
    sys.exit(main())
