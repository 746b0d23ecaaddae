"""Plays two variants of a scenario in alternation, in blocks of two runs, and records which runs belong to one block.

Each run is separate: its servers are started for it, and it has its own folder. This module measures nothing itself.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Literal

from msgspec import UNSET, Struct

from loadgen.analysis.summary import Summary
from loadgen.clock import Clock
from loadgen.decisions.versus.order import BlockOrder, block_orders
from loadgen.decisions.versus.pairs_file import Block, Pairs, PairsLog, UnusedRun
from loadgen.decisions.versus.variants import changed_keys
from loadgen.engine.stop import StopSignal
from loadgen.errors import LoadgenError
from loadgen.live.progress import Progress
from loadgen.plan.plan import Plan
from loadgen.record import StageKey
from loadgen.store.manifest import Placement, Variant
from loadgen.store.run_folder import Run

_VARIANTS: Final[dict[BlockOrder, tuple[Variant, Variant]]] = {"AB": ("A", "B"), "BA": ("B", "A")}

PlayRun = Callable[[Plan, Placement], Awaitable[tuple[Run, Summary]]]
"""Plays one run to its end."""
EndReason = Literal["complete", "interrupted", "no_target", "failed"]
"""Why playing ended: every block was played, a stop was asked for, a variant has no model that can be used, or a folder
could not be made or written."""


class PlayedBlocks(Struct, frozen=True):
    """Two variants that were played in alternation."""

    folder: Path
    """The folder of `pairs.json`, beside the folders of the runs."""
    pairs: Pairs
    ended: EndReason
    skipped: tuple[str, ...] = ()
    """If playing ended because no model could be used: a line for each model with its reason."""
    failure: LoadgenError | None = None
    """If playing ended because of an error: the error."""


async def play_blocks(
    base: Plan,
    new: Plan,
    blocks: int,
    play: PlayRun,
    *,
    rest_s: float,
    clock: Clock,
    stop: StopSignal,
    progress: Progress,
) -> PlayedBlocks:
    """Play a number of blocks of two runs in a balanced random order, which the seed of `base` decides.

    rest_s: the pause between two runs. A block with a run that cannot be compared is played again; all blocks together
    are played again at most as many times as there are blocks. `pairs.json` is written after every run. Raises
    InputError or FolderError if a folder cannot be made or written before the first block is complete. After that, such
    an error ends the playing and is in the result.
    """
    orders = block_orders(blocks, base.scenario.seed)
    log = PairsLog(Pairs(order=orders, versus=changed_keys(base.scenario, new.scenario)))
    player = _BlockPlayer({"A": base, "B": new}, log, play, rest_s, clock, stop, progress)
    try:
        await _play_orders(player, log, progress)
    except LoadgenError as error:
        if log.folder is None or not log.pairs.blocks:
            raise
        return PlayedBlocks(log.folder, log.pairs, "failed", failure=error)
    assert log.folder is not None  # the first run has made it
    return PlayedBlocks(log.folder, log.pairs, player.ended, player.skipped)


async def _play_orders(player: "_BlockPlayer", log: PairsLog, progress: Progress) -> None:
    """Play a block of each order, again where it cannot be compared, until something ends it."""
    replays = blocks = log.asked
    for number, order in enumerate(log.pairs.order, 1):
        while not await player.play_block(number, order) and player.ended == "complete":
            if not replays:
                log.drop_block()
                break
            replays -= 1
            progress.warn(f"block {number} of {blocks} is played again: {log.pairs.unused[-1].why}")
        if player.ended != "complete":
            return


class _BlockPlayer:
    """Plays one block after another."""

    def __init__(
        self,
        plans: dict[Variant, Plan],
        log: PairsLog,
        play: PlayRun,
        rest_s: float,
        clock: Clock,
        stop: StopSignal,
        progress: Progress,
    ) -> None:
        self.ended: EndReason = "complete"
        self.skipped: tuple[str, ...] = ()
        self._plans = plans
        self._log = log
        self._play = play
        self._rest_s = rest_s
        self._clock = clock
        self._stop = stop
        self._progress = progress
        self._stages: dict[Variant, set[StageKey]] = {}
        """The stages that the first usable run of each variant played."""

    async def play_block(self, number: int, order: BlockOrder) -> bool:
        """Play one block and return whether it is complete. Its second run is played only if the first can be
        compared."""
        played: dict[Variant, str] = {}
        for variant in _VARIANTS[order]:
            await self._rest()
            if (
                self._stop.requested and self._log.folder is not None
            ):  # the first run is played in any case, as by `run`
                self.ended = "interrupted"
                return self._reject(played, number, "interrupted")
            self._progress.begin_run(f"block {number} of {self._log.asked}: {variant}")
            run, summary = await self._play(self._plans[variant], Placement(variant, number))
            self._log.begin(run.folder)
            played[variant] = run.manifest.run_id
            await asyncio.sleep(0)  # so that a stop asked for meanwhile takes effect
            flaw = self._flaw(variant, run, summary)
            if flaw is not None:
                self._end_after(variant, summary)
                return self._reject(played, number, f"{variant}: {flaw}")
        self._log.add_block(Block(played["A"], played["B"]))
        return True

    async def _rest(self) -> None:
        if self._log.folder is not None and self._rest_s:
            await self._stop.sleep_until_ns(self._clock, self._clock.now_ns() + round(self._rest_s * 1e9))

    def _reject(self, played: dict[Variant, str], number: int, why: str) -> Literal[False]:
        self._log.add_unused(tuple(UnusedRun(run_id, variant, number, why) for variant, run_id in played.items()))
        return False

    def _flaw(self, variant: Variant, run: Run, summary: Summary) -> str | None:
        """The reason why a run cannot be compared; None if it can."""
        if run.manifest.state != "complete":
            return run.manifest.state
        stages = [stage for stage in summary.stages if stage.status == "played"]
        if not stages:
            return "no model could be used"
        for stage in stages:
            if stage.validity is not UNSET and stage.validity.verdict == "invalid":
                why = "; ".join(reason.observed for reason in stage.validity.reasons if reason.fatal)
                return f"{stage.model} at {stage.level} is invalid: {why}"
        if not any(stage.requests is not UNSET and stage.requests.ok for stage in stages):
            return "no request was answered"
        keys = {StageKey(stage.target, stage.model, stage.level) for stage in stages}
        missing = self._stages.setdefault(variant, keys) - keys
        return next((f"{key.model} at {key.level} was not played" for key in sorted(missing)), None)

    def _end_after(self, variant: Variant, summary: Summary) -> None:
        """End if a stop was asked for, or if a variant never had a model that can be used."""
        if self._stop.requested:
            self.ended = "interrupted"
        elif variant not in self._stages and all(stage.status == "skipped" for stage in summary.stages):
            self.ended = "no_target"
            lines = (f"{variant}: skipped {each.model} on {each.target}: {each.reason}" for each in summary.stages)
            self.skipped = tuple(dict.fromkeys(lines))
