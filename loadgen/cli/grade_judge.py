"""The part of the verb `grade` that asks a second model."""

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from loadgen.cli.streams import print_text, tell
from loadgen.cli.terminal import progress_on_terminal, screen
from loadgen.clock import SYSTEM_CLOCK, utc_now
from loadgen.decisions.candidates.candidate import candidates_of, is_candidate
from loadgen.decisions.candidates.runs import SelectRun
from loadgen.decisions.grade.judge import Judge, JudgedSheet, PairMode, judge_sheet
from loadgen.decisions.grade.judge_cache import cache_of
from loadgen.decisions.grade.judge_chat import JudgeAddress, JudgeChat
from loadgen.decisions.grade.judge_exam import PROMPTS, KnownPair, known_pairs
from loadgen.decisions.grade.judge_question import VERSION
from loadgen.decisions.grade.judges_file import Judging, ResponseFormat, append_judging, judging_lines
from loadgen.decisions.grade.notes import Note, append_notes
from loadgen.decisions.grade.sheet import Sheet, prompts_of
from loadgen.errors import InputError
from loadgen.live.progress import Progress, Silence
from loadgen.redact import escape_control, printable, redact_url
from loadgen.report.console import lines_text
from loadgen.scenario import Timeouts
from loadgen.scenario.overrides import parse_ready_s
from loadgen.scenario.urls import base_url, mismatch_of_endpoint
from loadgen.targets.ready import ReadyWait
from loadgen.wire.client import Client

VOTES: Final = 3
LONGEST_MODEL: Final = 200


class JudgeOptions(msgspec.Struct, frozen=True):
    """Which judge is asked, and how."""

    judge: Annotated[
        str | None,
        typer.Option("--judge", metavar="URL", help="Ask a second model in place of a person: its endpoint."),
    ] = None
    judge_model: Annotated[
        str | None, typer.Option("--judge-model", metavar="NAME", help="With --judge: the name of the model.")
    ] = None
    votes: Annotated[
        int,
        typer.Option(
            "--votes", metavar="N", min=1, max=99, help="With --judge: how often it is asked for each note; odd."
        ),
    ] = VOTES
    pairs: Annotated[
        bool, typer.Option("--pairs", help="With --judge: also ask which of two answers is better, in both orders.")
    ] = False
    ready: Annotated[
        str | None,
        typer.Option(
            "--ready", metavar="60s", help="With --judge: how long to wait for a server that is not ready; 0: not."
        ),
    ] = None

    @property
    def ready_s(self) -> float:
        """How long to wait for a server that is not ready, s. Raises InputError."""
        return Timeouts().ready_s if self.ready is None else parse_ready_s(self.ready)

    @property
    def address(self) -> JudgeAddress | None:
        """Where the judge answers; None: none is asked. Raises InputError for what does not fit together."""
        if self.judge is None:
            given = {
                "--judge-model": self.judge_model is not None,
                "--votes": self.votes != VOTES,
                "--pairs": self.pairs,
                "--ready": self.ready is not None,
            }
            alone = next((flag for flag, is_given in given.items() if is_given), None)
            if alone is not None:
                raise InputError(f"{alone} goes with --judge URL; add it, or leave {alone} out")
            return None
        if (wrong := mismatch_of_endpoint(self.judge)) is not None:
            raise InputError(redact_url(f"--judge: {wrong[0]}; {wrong[1]}"))
        if self.judge_model is None:
            raise InputError("--judge needs the name of the model; add --judge-model NAME")
        if not (self.judge_model.strip() and self.judge_model.isprintable() and len(self.judge_model) <= LONGEST_MODEL):
            shown = escape_control(self.judge_model[:LONGEST_MODEL])
            raise InputError(f"--judge-model {shown!r}: give a name of 1 to {LONGEST_MODEL} printable characters")
        if self.votes % 2 == 0:
            raise InputError(f"--votes {self.votes}: an even number of votes has no median; give an odd number")
        return JudgeAddress(self.judge, self.judge_model.strip())


def ask_judge(runs: tuple[SelectRun, ...], sheet: Sheet, options: JudgeOptions, address: JudgeAddress) -> None:
    """Have a judge grade the answers of a sheet, and write its notes to the folders of the runs.

    Raises InputError if there are too few prompts to test it, JudgeError if its notes do not count, and TargetError if
    it cannot be reached.
    """
    pairs = known_pairs(prompts_of(runs), sheet.run_ids)
    if pairs is None:
        raise InputError(
            f"--judge: the judge is tested first, on {PROMPTS} prompts whose key points have two figures or more, and "
            "these runs have fewer; add key_points to the prompts, or grade by hand"
        )
    self_judged = is_candidate(address.model, candidates_of(runs))
    if self_judged:
        tell(f"loadgen: {printable(address.model)} is one of the candidates: loadgen select will not use its notes")
    mode: PairMode = "both_orders" if options.pairs else "no_pairs"
    judged, response_format = asyncio.run(_judged(sheet, address, pairs, options.votes, mode, options.ready_s))
    at = utc_now().isoformat(timespec="milliseconds")
    judging = Judging(
        by=f"{address.model} ({VERSION})",
        model=address.model,
        url=address.shown_url,
        response_format=response_format,
        version=VERSION,
        votes=options.votes,
        test=judged.test,
        asked=judged.asked,
        without_verdict=judged.without_verdict,
        answers=len({note.answer.answer for note in judged.notes}),
        notes=len(judged.notes),
        pairs=judged.pairs,
        self_judged=self_judged,
        at=at,
    )
    append_judging(judging, [run.folder for run in runs])
    _append_notes(judged, judging)
    print_text(lines_text(judging_lines(judging), screen()))


async def _judged(
    sheet: Sheet, address: JudgeAddress, pairs: tuple[KnownPair, ...], votes: int, mode: PairMode, ready_s: float
) -> tuple[JudgedSheet, ResponseFormat]:
    cache = cache_of(base_url(address.url), address.model)
    with _progress() as progress:
        async with Client() as client:
            who = f"the judge {printable(address.model)} at {address.shown_url}"
            chat = JudgeChat(address, client, SYSTEM_CLOCK, ReadyWait(SYSTEM_CLOCK, ready_s, who, tell))
            await chat.open()
            judged = await judge_sheet(Judge(chat.text, cache, progress.work), sheet, pairs, votes=votes, pairs=mode)
    if cache.why_not_written is not None:
        tell(f"loadgen: the judge's answers are not kept for another time ({cache.why_not_written})")
    return judged, chat.response_format


def _progress() -> contextlib.AbstractContextManager[Progress]:
    return progress_on_terminal("text") if sys.stderr.isatty() else contextlib.nullcontext(Silence())


def _append_notes(judged: JudgedSheet, judging: Judging) -> None:
    """Write each note to the folders of the runs in which its answer was given."""
    by_folder: dict[Path, list[Note]] = {}
    for note in judged.notes:
        own = Note(
            answer=note.answer.answer,
            prompt_id=note.answer.prompt.id,
            text_sha256=note.answer.text_sha256,
            aspect=note.aspect,
            note=note.note,
            by=judging.by,
            kind="judge",
            at=judging.at,
            reason=note.reason,
        )
        for folder in note.answer.folders:
            by_folder.setdefault(folder, []).append(own)
    for folder, notes in sorted(by_folder.items()):
        append_notes(notes, [folder])
