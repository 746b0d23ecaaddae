"""How far what we report is from the truth, and what it costs, beside other clients on the same scripted server.

    python benchmarks/accuracy.py [--streams 16,200] [--rounds 1] [--check] [--write]
                                  [--sdks VENV] [--guidellm VENV] [--aiperf VENV] [--locust VENV]

Each client is a process of its own against a fresh server, one after another at each load, so that all see the same
machine within a minute. What is compared, and how, is in docs/accuracy.md, where `--write` puts the tables.
"""

import argparse
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder

from benchmarks import contenders, cost, processes, tables  # noqa: E402
from benchmarks.contenders import Contender  # noqa: E402
from benchmarks.figures import Figures, figures, median  # noqa: E402
from benchmarks.truth import Load, ServerAnswer, Truth  # noqa: E402
from loadgen.telemetry import host  # noqa: E402

PAGE: Final = ROOT / "docs" / "accuracy.md"
TTFT_MS: Final = 200.0
ITL_MS: Final = 50.0
CLIENT_S: Final = 90.0
AROUND_NS: Final = 10_000_000
"""CPU time counts from so long before the first request arrives to so long after the last token."""
FEW_STREAMS: Final = 4
"""Below so many, each asks so often, that there is more than a request or two."""
SDKS: Final = ("httpx", "openai")

Cells = dict[Load, dict[str, Figures]]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Our accuracy and cost beside other clients'.")
    parser.add_argument("--streams", default="16,200", help="so many at once: 1,16,64,200")
    parser.add_argument("--peer-streams", default="16,200", help="of these, where SDKs and peers take part")
    parser.add_argument("--pace", choices=("staggered", "together", "both"), default="both")
    parser.add_argument("--tokens", type=int, default=20, help="of each answer")
    parser.add_argument("--rounds", type=int, default=1, help="of each client at each load; medians are shown")
    parser.add_argument("--cost-rounds", type=int, default=2, help="of the CPU time a token; 0 leaves it out")
    parser.add_argument("--sdks", type=Path, metavar="VENV", help="an environment with httpx and openai")
    for peer in contenders.PEERS:
        parser.add_argument(f"--{peer}", type=Path, metavar="VENV", help=f"an environment with {peer}")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.relative_to(ROOT)}")
    return parser.parse_args()


def loads(given: argparse.Namespace) -> list[Load]:
    paces = {"staggered": (False,), "together": (True,), "both": (False, True)}[given.pace]
    levels = [int(level) for level in given.streams.split(",")]
    return [
        Load(streams, 2 if streams >= FEW_STREAMS else FEW_STREAMS, given.tokens, TTFT_MS, ITL_MS, together)
        for together in paces
        for streams in levels
    ]


def compared(given: argparse.Namespace, programs: Path) -> tuple[list[Contender], dict[str, str]]:
    """Who takes part, and the versions of those who have one."""
    clients = [
        Contender(tables.OURS, contenders.loadgen),
        Contender(tables.PLAIN, contenders.plain(tables.PLAIN, Path(sys.executable))),
    ]
    versions: dict[str, str] = {}
    reader = contenders.reader(programs)
    if reader is None:
        print("There is no C compiler here, or no Linux: no C reader, and the tests' server in Python in place of C's.")
    else:
        clients.append(Contender(tables.FLOOR, reader, floor=True))
    if given.sdks:
        python = given.sdks.absolute() / "bin" / "python"
        versions |= {name: contenders.version(python, name) for name in SDKS}
        clients += [Contender(name, contenders.plain(name, python), elsewhere=True) for name in SDKS]
    for name, make in contenders.PEERS.items():
        environment = getattr(given, name)
        if environment:
            versions[name] = contenders.version(environment.absolute() / "bin" / "python", name)
            clients.append(Contender(name, make(environment.absolute()), elsewhere=True, peer=True))
    return clients, versions


def played(
    contender: Contender, load: Load, folder: Path
) -> tuple[contenders.Reported, list[ServerAnswer], float | None]:
    """One client against a fresh server: what it reports, what was true, and the CPU time it took, ns."""
    folder.mkdir()
    with Truth(folder, load) as truth:
        run = contender.prepare(truth.url, load, folder)
        ran = processes.run(run.command, folder=folder, timeout_s=CLIENT_S, environment=run.environment)
    sent = truth.measured()
    start, end = min(each.arrived_ns for each in sent), max(int(each.tokens_ns[-1]) for each in sent)
    return run.report(), sent, ran.cpu_ns(start - AROUND_NS, end + AROUND_NS)


def play_all(given: argparse.Namespace, everyone: Sequence[Contender], folder: Path) -> Cells:
    """Every client at every load, in turns; what failed is said, and left out."""
    peer_levels = {int(level) for level in given.peer_streams.split(",")}
    cells: dict[Load, dict[str, list[Figures]]] = {}
    for load in loads(given):
        here = [each for each in everyone if not each.floor and (not each.elsewhere or load.streams in peer_levels)]
        cells[load] = {each.name: [] for each in here}
        for turn in range(given.rounds):
            for each in here[:: -1 if turn % 2 else 1]:
                print(f"{load.streams:>4} {load.pace:<9} {each.name:<9}", end=" ", flush=True)
                began_s = time.perf_counter()
                try:
                    at = folder / f"{load.streams}-{load.pace}-{turn}-{each.name}"
                    measured = figures(load, *played(each, load, at))
                except (SystemExit, Exception) as error:  # noqa: BLE001  the others are still worth having
                    print(f"failed: {error}")
                    continue
                cells[load][each.name].append(measured)
                print(line(measured, time.perf_counter() - began_s), flush=True)
    return {load: {name: median(runs) for name, runs in cell.items() if runs} for load, cell in cells.items()}


def costs_of(given: argparse.Namespace, everyone: Sequence[Contender], folder: Path) -> dict[str, list[float]]:
    """CPU time a token, in turns: what the targets are about in every round, the SDKs once."""
    costs: dict[str, list[float]] = {each.name: [] for each in everyone if not each.peer}
    for turn in range(given.cost_rounds):
        for each in everyone:
            if each.peer or (turn and each.elsewhere):
                continue
            print(f"cost of a token: {each.name:<9}", end=" ", flush=True)
            try:
                short, long = (
                    played(each, load, folder / f"cost-{load.tokens}-{turn}-{each.name}")[2]
                    for load in (cost.SHORT, cost.LONG)
                )
            except (SystemExit, Exception) as error:  # noqa: BLE001  the others are still worth having
                print(f"failed: {error}")
                continue
            if short is not None and long is not None:
                costs[each.name].append(cost.token_us(short, long))
                print(f"{costs[each.name][-1]:.1f} µs", flush=True)
    return {name: rounds for name, rounds in costs.items() if rounds}


def line(measured: Figures, took_s: float) -> str:
    """A line of progress."""

    def pair(errors: tuple[float, float] | None) -> str:
        return f"{'–':>16}" if errors is None else f"{errors[0]:7.3f} {errors[1]:8.3f}"

    took = "–" if measured.cpu_us is None else f"{measured.cpu_us:6.1f}"
    late = "" if measured.late_p99_ms is None else f"  server late by {measured.late_p99_ms:.3f} ms (p99)"
    errors = f"TTFT {pair(measured.ttft)} | service {pair(measured.service_ttft)} | ITL {pair(measured.itl)}"
    return f"{errors} | CPU {took} µs{late}  [{took_s:.1f} s]"


def circumstances(given: argparse.Namespace, versions: dict[str, str], cells: Cells) -> str:
    """What the tables depend on."""
    machine, known = host.host(), host.versions() | versions
    runs = [measured for cell in cells.values() for measured in cell.values()]
    width = max((measured.width_p99_ms for measured in runs), default=0.0)
    ours, others = (
        [
            measured.late_p99_ms or 0.0
            for cell in cells.values()
            for name, measured in cell.items()
            if (name == tables.OURS) == own
        ]
        for own in (True, False)
    )
    script = (
        f"; it was late by its own script by up to {max(ours, default=0):.1f} ms at p99 beside loadgen, "
        f"{max(others, default=0):.1f} ms beside the others"
    )
    parts = (
        f"Made on {datetime.now(UTC):%Y-%m-%d} (UTC) by:",
        f"    {command()}",
        f"{machine.cpu}, {machine.cores_usable} cores for clients, server and everything else; "
        f"{platform.system()} {machine.kernel}. Versions: {', '.join(f'{k} {v}' for k, v in known.items())}.",
        f"Answers of {given.tokens} tokens, TTFT {TTFT_MS:g} ms, ITL {ITL_MS:g} ms; rounds: {given.rounds}. The "
        f"server's sends took up to {width:.3f} ms at p99{script}.",
    )
    return "\n\n".join(parts)


def command() -> str:
    """The command that was given, without the folders of this machine."""
    words = []
    for word in sys.argv[1:]:
        name, _, value = word.partition("=")
        words.append(f"{name}=VENV" if value and Path(value).is_dir() else "VENV" if Path(word).is_dir() else word)
    return shlex.join(["python", "benchmarks/accuracy.py", *words])


def page_of(cells: Cells, costs: cost.Costs, targets: Sequence[tables.Target], around: str) -> str:
    """All that is shown, as Markdown."""
    parts = [around]
    for together, title in ((False, "Staggered"), (True, "All streams tick together")):
        if any(load.together == together for load in cells):
            parts += [f"### {title}", tables.reported_table(cells, together=together)]
    if cells:
        parts += ["### Request by request, token by token", tables.each_table(cells)]
    if costs:
        parts += ["### CPU time of one more token", cost.cost_table(costs)]
    return "\n\n".join([*parts, "### Targets", tables.targets_table(targets)])


def main() -> None:
    given = parsed()
    began_s = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="loadgen-accuracy-") as name:
        everyone, versions = compared(given, Path(name))
        print("Reported minus true p50 and p99, ms; CPU time a token, requests and all.", flush=True)
        cells = play_all(given, everyone, Path(name))
        costs = costs_of(given, everyone, Path(name))
    failed = any(tables.OURS not in cell for cell in cells.values())
    failed |= (
        bool(given.cost_rounds) and len(costs.get(tables.OURS, ())) < given.cost_rounds and sys.platform == "linux"
    )
    cells = {load: cell for load, cell in cells.items() if tables.OURS in cell}
    targets = tables.accuracy_targets(cells, [each.name for each in everyone if each.peer]) + cost.cost_targets(costs)
    text = page_of(cells, costs, targets, circumstances(given, versions, cells))
    print(f"\n{text}\n\ndone in {time.perf_counter() - began_s:.0f} s")
    if given.write and not failed:  # a table with a hole is worse than an old one
        tables.write_between(PAGE, text)
    if given.check and (failed or not all(target.met for target in targets)):
        print("a run of ours failed" if failed else "a target was missed", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
