"""`run` with `--versus`: plays two variants in alternation, then prints and writes the comparison of B with A."""

import asyncio
import shlex
import sys
from pathlib import Path
from typing import Final

from loadgen import api
from loadgen.analysis.summary import Summary
from loadgen.cli.before_run import warn_before_run
from loadgen.cli.compare import list_unlike, show_comparison
from loadgen.cli.interrupt import interruptible
from loadgen.cli.options import Output, RepeatOptions, ScenarioOptions
from loadgen.cli.report import tell_place
from loadgen.cli.streams import tell
from loadgen.cli.terminal import progress_on_terminal
from loadgen.cli.versus_plans import plans_of_variants
from loadgen.decisions.compare.comparison import CompareSettings, compare_sides
from loadgen.decisions.compare.differences import NotAlikeError
from loadgen.decisions.versus.block_sides import sides_of_blocks, with_pairs_of
from loadgen.decisions.versus.order import BLOCKS
from loadgen.decisions.versus.pairs_file import PAIRS
from loadgen.decisions.versus.play import EndReason, PlayedBlocks
from loadgen.decisions.versus.words import variant_lines
from loadgen.engine.stop import StopSignal
from loadgen.engine.workers.sizing import Workers
from loadgen.errors import ExitCode
from loadgen.plan.plan import Plan
from loadgen.report.files import reports_of
from loadgen.report.format import format_count
from loadgen.scenario.variant_models import VariantFlags
from loadgen.store.run_folder import Run

_WHY_ENDED: Final[dict[EndReason, tuple[str, ...]]] = {
    "complete": (),
    "interrupted": ("interrupted",),
    "no_target": ("no model could be used",),
    "failed": ("a folder could not be written",),
}


def run_versus(
    options: ScenarioOptions,
    variant: VariantFlags,
    repetition: RepeatOptions,
    out: Path,
    workers: Workers,
    output: Output,
) -> ExitCode:
    """Play both variants, compare B with A, and return how the command ends."""
    base, new = plans_of_variants(options, variant, repetition, output)
    blocks = repetition.repeats or BLOCKS
    if output == "text":
        warn_before_run(base, workers)
        for line in variant_lines(base, new, blocks):
            tell(f"loadgen: {line}")
    played, interrupted = asyncio.run(_play_variants(base, new, blocks, repetition, out, workers, output))
    for line in played.skipped:
        tell(f"loadgen: {line}")
    code = _compare(played, blocks, repetition, out, output)
    if played.failure is not None:
        raise played.failure
    if interrupted:
        return ExitCode.INTERRUPTED
    return ExitCode.NO_TARGET if played.ended == "no_target" else code


async def _play_variants(
    base: Plan, new: Plan, blocks: int, repetition: RepeatOptions, out: Path, workers: Workers, output: Output
) -> tuple[PlayedBlocks, bool]:
    """The blocks that were played, and whether a stop was asked for."""
    stop = StopSignal()

    def summarized(run: Run) -> Summary:
        reports = reports_of(run)
        if reports.unwritten:  # not needed, because the comparison uses the records
            tell_place(reports, output)
        return reports.summary

    with progress_on_terminal(output) as progress, interruptible(stop, output):
        played = await api.versus(
            base,
            new,
            blocks,
            rest_s=repetition.rest_s,
            unlike="accept",  # `check_variants` has checked it
            results=out,
            workers=workers,
            progress=progress,
            stop=stop,
            summarized=summarized,
        )
    return played, stop.requested


def _compare(played: PlayedBlocks, blocks: int, repetition: RepeatOptions, out: Path, output: Output) -> ExitCode:
    comparable = len(played.pairs.blocks)
    if comparable < blocks:
        reasons = [*_WHY_ENDED[played.ended], *dict.fromkeys(run.why for run in played.pairs.unused)]
        more = (
            f"; {format_count(len(reasons) - 1, 'more reason')} in {played.folder / PAIRS}" if len(reasons) > 1 else ""
        )
        tell(f"loadgen: {comparable} of {blocks} blocks can be compared ({reasons[0]}{more})")
    if not comparable:
        return ExitCode.GATE_FAILED
    sides = sides_of_blocks(played.folder, played.pairs)
    settings = CompareSettings(unlike="accept" if repetition.anyway else "refuse")
    try:
        comparison = compare_sides(sides, with_pairs_of(sides, settings), results=out)
    except NotAlikeError as refusal:
        list_unlike(refusal)
        tell(f"loadgen: what was played is kept: `loadgen compare {played.folder} --anyway` compares it")
        return ExitCode.BAD_INPUT
    show_comparison(comparison, sides, played.folder, output, shlex.join(["loadgen", *sys.argv[1:]]))
    return ExitCode.GATE_FAILED if comparison.verdict == "worse" else ExitCode.DONE
