"""The verb `compare`: says whether the runs of NEW are worse than those of BASE, and how sure that is."""

import re
import shlex
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from loadgen.cli.options import RESULTS, Out, Output, OutputOptions, expand_options
from loadgen.cli.streams import print_text, tell
from loadgen.cli.terminal import screen, show_json
from loadgen.decisions.capacity.resume import EarlierSearch, two_searches
from loadgen.decisions.capacity.search_comparison import compare_searches, comparison_lines, comparison_text
from loadgen.decisions.compare.comparison import CompareSettings, Comparison, compare_sides
from loadgen.decisions.compare.differences import NotAlikeError
from loadgen.decisions.compare.figures import DEFAULT_METRICS, parse_metrics
from loadgen.decisions.compare.files import write_comparison
from loadgen.decisions.compare.markdown import comparison_markdown
from loadgen.decisions.compare.sides import Sides
from loadgen.decisions.compare.verdict import Limits
from loadgen.decisions.compare.words import difference_lines, more_lines, verdict_line
from loadgen.decisions.versus.block_sides import read_sides_of, with_pairs_of
from loadgen.errors import ExitCode, InputError
from loadgen.report.console import lines_text
from loadgen.store import files


class CompareOptions(msgspec.Struct, frozen=True):
    """What is asked of two sides. A flag is one field here and one line in `settings`."""

    margin: Annotated[
        str, typer.Option("--margin", metavar="P%", help="Changes up to this size count as the same.")
    ] = "5%"
    min_effect: Annotated[
        str, typer.Option("--min-effect", metavar="P%", help="A smaller regression never fails the gate.")
    ] = "2%"
    alpha: Annotated[
        str, typer.Option("--alpha", metavar="P%", help="How often a comparison of equal sides may say worse.")
    ] = "5%"
    noise: Annotated[
        str | None,
        typer.Option("--noise", metavar="P%", help="Run-to-run noise, for too few runs (default: learned, or 5%)."),
    ] = None
    metrics: Annotated[str | None, typer.Option("--metrics", metavar="LIST", help="E.g. ttft_p50,ttft_p95,rss.")] = None
    stage: Annotated[
        list[str] | None, typer.Option("--stage", metavar="LEVEL", help="Compare only this level, e.g. c4. Repeatable.")
    ] = None
    pair: Annotated[
        list[str] | None,
        typer.Option("--pair", metavar="BASE=NEW", help="Two models with different names to compare. Repeatable."),
    ] = None
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Compare runs that are not alike, and list the differences.")
    ] = False

    def settings(self) -> CompareSettings:
        """What the flags ask. Raises InputError, which names the flag, for a value that cannot be read."""
        return CompareSettings(
            limits=Limits(
                margin=parse_percent(self.margin, "--margin"),
                min_effect=parse_percent(self.min_effect, "--min-effect", least=0.0),
                alpha=parse_percent(self.alpha, "--alpha", most=0.5),
            ),
            noise=None if self.noise is None else parse_percent(self.noise, "--noise"),
            metrics=DEFAULT_METRICS if self.metrics is None else parse_metrics(self.metrics),
            levels=tuple(self.stage or ()),
            pairs=tuple(_pair(text) for text in self.pair or ()),
            unlike="accept" if self.anyway else "refuse",
        )


def parse_percent(text: str, flag: str, *, least: float = 1e-4, most: float = 1.0) -> float:
    """A share of one, of "5%", "2.5 %" or "5". Raises InputError that names the flag."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?%?", text.strip(), re.ASCII)
    share = float(match[1]) / 100 if match and len(match[1]) < 20 else -1.0
    if not least <= share <= most:
        example = "5%" if least <= 0.05 else "95%"
        raise InputError(f"{flag} {text}: not from {least * 100:g} % to {most * 100:g} %; write e.g. {flag} {example}")
    return share


def _pair(text: str) -> tuple[str, str]:
    base, equals, new = text.partition("=")
    if not (base and equals and new):
        raise InputError(f"--pair {text}: not two models; write --pair BASE=NEW with the names that the runs use")
    return base, new


@expand_options
def compare(
    *,
    base: Annotated[
        str,
        typer.Argument(
            metavar="BASE",
            help="A run, merged or --versus folder, a scenario's folder (its newest run), or baseline:NAME.",
        ),
    ],
    new: Annotated[
        str | None,
        typer.Argument(metavar="NEW", help="The runs to judge, in one of these forms; not with a --versus folder."),
    ] = None,
    more_base: Annotated[
        list[str] | None, typer.Option("--base", metavar="RUN", help="A further run of BASE. Repeatable.")
    ] = None,
    more_new: Annotated[
        list[str] | None, typer.Option("--new", metavar="RUN", help="A further run of NEW. Repeatable.")
    ] = None,
    options: CompareOptions,
    markdown: Annotated[
        str | None, typer.Option("--markdown", metavar="PATH", help="Write Markdown for a pull request; - prints it.")
    ] = None,
    out: Out = RESULTS,
    printing: OutputOptions,
) -> None:
    """Say whether NEW is worse than BASE, and how sure that is.

    The exit code is 1 only if a regression is shown. A folder of `run --versus` has both sides, so give it as BASE
    alone.
    """
    settings = options.settings()
    all_base, all_new = (base, *(more_base or ())), (*([] if new is None else [new]), *(more_new or ()))
    if (searches := two_searches(all_base, all_new)) is not None:
        raise typer.Exit(_compare_searches(*searches, settings, printing.output, markdown))
    sides = read_sides_of(all_base, all_new, results=out)
    try:
        comparison = compare_sides(sides, with_pairs_of(sides, settings), results=out)
    except NotAlikeError as refusal:
        list_unlike(refusal)
        raise typer.Exit(ExitCode.BAD_INPUT) from None
    command = shlex.join(["loadgen", *sys.argv[1:]])
    folder = sides.new[0].folder if sides.arrangement == "apart" else Path(base)
    if markdown == "-" and printing.output != "json":
        print_text(comparison_markdown(comparison, command))
        show_comparison(comparison, sides, folder, "nothing", command)
    else:
        show_comparison(comparison, sides, folder, printing.output, command)
    if markdown is not None and markdown != "-":
        _write_markdown(Path(markdown), comparison_markdown(comparison, command))
    raise typer.Exit(ExitCode.GATE_FAILED if comparison.verdict == "worse" else ExitCode.DONE)


def _compare_searches(
    base: EarlierSearch, new: EarlierSearch, settings: CompareSettings, output: Output, markdown: str | None
) -> ExitCode:
    """Compare two searches of `loadgen capacity`, print it, and keep its files beside NEW."""
    try:
        comparison = compare_searches(base, new, settings.unlike)
    except NotAlikeError as refusal:
        list_unlike(refusal)
        return ExitCode.BAD_INPUT
    text = comparison_text(comparison, shlex.join(["loadgen", *sys.argv[1:]]))
    if output == "json":
        show_json(msgspec.to_builtins(comparison))
    elif markdown == "-":
        print_text(text)
    elif output == "text":
        print_text(lines_text(comparison_lines(comparison), screen()))
    for path, content in (("comparison.json", files.json_document(comparison)), ("comparison.md", text.encode())):
        try:
            files.write_whole(new.folder / path, content)
        except OSError as error:
            tell(f"loadgen: {new.folder / path}: not written ({error.strerror})")
    if markdown is not None and markdown != "-":
        _write_markdown(Path(markdown), text)
    return ExitCode.GATE_FAILED if comparison.verdict == "worse" else ExitCode.DONE


def list_unlike(refusal: NotAlikeError) -> None:
    """What differs though it must not, a line each."""
    tell("loadgen: BASE and NEW are not alike; make them alike, or compare them with --anyway:")
    for each in refusal.differences:
        tell(f"loadgen: {each.subject}: {each.base} in BASE, {each.new} in NEW")


def show_comparison(comparison: Comparison, sides: Sides, folder: Path, output: Output, command: str) -> None:
    """Print a comparison, and keep its files in a folder. command: that made it."""
    match output:
        case "json":
            show_json(msgspec.to_builtins(comparison))
        case "text":
            lines = [*difference_lines(comparison), verdict_line(comparison), *more_lines(comparison)]
            print_text(lines_text(lines, screen()))
        case "nothing":
            pass
    written = write_comparison(comparison, sides, folder, command)
    if written.unwritten:
        tell(f"loadgen: {written.folder}: not written: {', '.join(written.unwritten)} ({written.reason})")
    elif output == "text":
        print_text(f"comparison: {written.folder / 'comparison.html'} (and comparison.md, comparison.json)\n")


def _write_markdown(path: Path, text: str) -> None:
    try:
        files.write_to(path, text.encode())
    except OSError as error:
        raise InputError(
            f"--markdown {path}: cannot be written ({error.strerror}); choose a file you may write"
        ) from error
