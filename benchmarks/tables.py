"""Figures as Markdown tables, and the targets beside what was measured. Pure but for `write_between`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from benchmarks.contenders import Pair
from benchmarks.figures import Figures, Sizes
from benchmarks.truth import Load

BEGIN: Final = "<!-- made by benchmarks/accuracy.py: begin -->"
END: Final = "<!-- made by benchmarks/accuracy.py: end -->"
OURS: Final = "loadgen"
FLOOR: Final = "C reader"
PLAIN: Final = "aiohttp"

SERVICE_MS: Final = 0.1
"""Service TTFT and ITL of tokens that shared no read, p99 of the errors' sizes."""
CLOSED_LOOP_MS: Final = 0.5
"""TTFT of a closed loop: reported p50 and p99."""
TIMES_CLOSER: Final = {False: 50, True: 200}
"""Than the best peer, with TIMES_CLOSER_AT streams; by whether they tick together."""
TIMES_CLOSER_AT: Final = 200

Cell = Mapping[str, Figures]
"""The figures of one load, by client."""


class Target(Struct, frozen=True):
    """A target, and what came of it at one load."""

    text: str
    load: Load
    measured: str
    met: bool


def accuracy_targets(cells: Mapping[Load, Cell], peers: Sequence[str]) -> list[Target]:
    """Every stated target of accuracy that these runs can tell about."""
    return [target for load, cell in cells.items() for target in _close(load, cell, peers)]


def _close(load: Load, cell: Cell, peers: Sequence[str]) -> list[Target]:
    ours = cell[OURS]
    targets = []
    for name, sizes in (("service TTFT", ours.of_service_ttft), ("ITL", ours.of_itl)):
        if sizes is not None:
            text = f"{name} within {SERVICE_MS:g} ms at p99"
            targets.append(Target(text, load, f"{sizes.p99:.3f} ms", sizes.p99 <= SERVICE_MS))
    if ours.ttft is not None:
        worst = max(map(abs, ours.ttft))
        text = f"TTFT's p50 and p99 within {CLOSED_LOOP_MS:g} ms"
        targets.append(Target(text, load, f"{worst:.3f} ms", worst <= CLOSED_LOOP_MS))
    far = {name: distance for name in peers if name in cell and (distance := cell[name].distance_ms) is not None}
    if far and ours.distance_ms is not None and load.streams == TIMES_CLOSER_AT:
        best, wanted = min(far, key=lambda name: far[name]), TIMES_CLOSER[load.together]
        times = far[best] / max(ours.distance_ms, 1e-6)
        measured = f"{times:.0f} times ({far[best]:.3f} ms of {best}, {ours.distance_ms:.4f} ms of ours)"
        targets.append(Target(f"{wanted} times closer than the best peer", load, measured, times >= wanted))
    return targets


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int) -> str:
    """A table; its first columns, so many, are texts, the others numbers."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * texts + "---:|" * (len(heads) - texts)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _pair(pair: Pair | None) -> str:
    return "–" if pair is None else " / ".join(f"{_signed(value)}" for value in pair)


def _signed(value: float) -> str:
    text = f"{value:.3f}" if abs(value) < 1 else f"{value:.1f}"
    return "0.000" if float(text) == 0 else text.replace("-", "−")


def number(value: float | None, form: str = ".1f") -> str:
    return "–" if value is None else format(value, form)


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share * 100:.1f} %"


def _sizes(sizes: Sizes | None) -> str:
    return "–" if sizes is None else f"{sizes.p50:.3f} / {sizes.p99:.3f} / {sizes.most:.3f}"


def reported_table(cells: Mapping[Load, Cell], *, together: bool) -> str:
    """What each client reports, minus the truth; and its CPU time a token, requests and all."""
    heads = ("streams", "client", "TTFT p50 / p99", "service TTFT p50 / p99", "ITL p50 / p99", "CPU, µs a token")
    rows = []
    for load, cell in cells.items():
        if load.together != together:
            continue
        for place, (name, figures) in enumerate(cell.items()):
            shown = f"**{name}**" if name == OURS else name
            pairs = (_pair(figures.ttft), _pair(figures.service_ttft), _pair(figures.itl))
            rows.append((str(load.streams) if not place else "", shown, *pairs, number(figures.cpu_us)))
    return table(heads, rows, texts=2)


def each_table(cells: Mapping[Load, Cell]) -> str:
    """Error sizes of single requests and gaps, where a client tells of them."""
    heads = ("streams", "client", "TTFT", "service TTFT", "ITL", "gaps left out")
    rows = []
    for load, cell in cells.items():
        for place, (name, figures) in enumerate(
            (name, figures) for name, figures in cell.items() if figures.of_itl is not None
        ):
            sizes = (_sizes(figures.of_ttft), _sizes(figures.of_service_ttft), _sizes(figures.of_itl))
            at = f"{load.streams} {load.pace}" if not place else ""
            rows.append((at, f"**{name}**" if name == OURS else name, *sizes, percent(figures.shared)))
    return table(heads, rows, texts=2)


def targets_table(targets: Sequence[Target]) -> str:
    """One row a target: the loads at which it was met, and the others with what was measured."""
    rows = []
    for text in dict.fromkeys(target.text for target in targets):
        those = [target for target in targets if target.text == text]
        met = sum(target.met for target in those)
        measured = "; ".join(f"{each.load.streams} {each.load.pace}: {each.measured}" for each in those)
        rows.append((text, f"{met} of {len(those)}", measured))
    return table(("target", "met", "measured"), rows, texts=3)


def write_between(page: Path, text: str, first: str = BEGIN, last: str = END) -> None:
    """Put a text between two marks of a page. Raises SystemExit where it has none."""
    old = page.read_text(encoding="utf-8")
    before, begin, rest = old.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise SystemExit(f"{page}: has no lines {first} and {last}; put them where the tables shall stand")
    page.write_text(f"{before}{first}\n\n{text.strip()}\n\n{last}{after}", encoding="utf-8")
