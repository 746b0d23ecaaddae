"""The two sides of a comparison of variants. A is BASE, B is NEW, and the two runs of a block form a pair."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from loadgen.decisions.compare.comparison import CompareSettings
from loadgen.decisions.compare.paired_models import served_by
from loadgen.decisions.compare.sides import ComparedRun, Sides, read_compared, read_sides
from loadgen.decisions.versus.pairs_file import PAIRS, Pairs, has_pairs, read_pairs
from loadgen.errors import InputError
from loadgen.scenario import Model
from loadgen.scenario.file import is_file
from loadgen.store import run_folder
from loadgen.targets.registry import target_name


def read_sides_of(base: Sequence[str | Path], new: Sequence[str | Path], *, results: Path) -> Sides:
    """The sides that paths name. With `new`: as `read_sides`. Without it, `base` is one folder that `--versus` made.

    Raises InputError as `read_sides` and `read_block_sides` do.
    """
    if not new:
        if len(base) != 1:
            raise InputError(f"{base[-1]}: a further run of BASE, but none of NEW; give NEW")
        return read_block_sides(base[0])
    for path in (*base, *new):
        if has_pairs(path):
            raise InputError(f"{path}: it has both sides; give it alone")
    return read_sides(base, new, results=results)


def read_block_sides(folder: str | Path) -> Sides:
    """The runs of the complete blocks in a folder that `--versus` made.

    Raises InputError if the folder has no `pairs.json` or no complete block, or if one of its runs is missing.
    """
    folder = Path(folder)
    if not has_pairs(folder):
        raise InputError(f"{folder}: only one side, because it has no {PAIRS}; give NEW too, or a folder of --versus")
    return sides_of_blocks(folder, read_pairs(folder))


def sides_of_blocks(folder: Path, pairs: Pairs) -> Sides:
    """The runs of the complete blocks, whose folders stand beside a folder. Raises InputError as `read_block_sides`."""
    if not pairs.blocks:
        raise InputError(f"{folder}: no block was completed, so there is nothing to compare; play it again")
    parent = folder.resolve().parent
    for run_id in (run_id for block in pairs.blocks for run_id in (block.a, block.b)):
        if not is_file(parent / run_id / run_folder.MANIFEST):
            raise InputError(f"{folder}: {parent / run_id}, a run of its blocks, is missing; put it back")
    base, new = (
        tuple(read_compared(parent / run_id) for run_id in ids)
        for ids in zip(*((block.a, block.b) for block in pairs.blocks), strict=True)
    )
    return Sides(base, new, "blocks")


def with_pairs_of(sides: Sides, settings: CompareSettings) -> CompareSettings:
    """The settings, with the corresponding models of the two variants added if the settings name none."""
    if settings.pairs or sides.arrangement != "blocks":
        return settings
    return msgspec.structs.replace(settings, pairs=corresponding_models(sides))


def corresponding_models(sides: Sides) -> tuple[tuple[str, str], ...]:
    """The models of A and B at the same place in the scenario whose names or targets differ, if both were played."""
    base, new = sides.base[0], sides.new[0]
    models = zip(base.manifest.scenario.models, new.manifest.scenario.models, strict=False)
    return tuple(
        (_full_name(a), _full_name(b)) for a, b in models if a != b and _was_played(base, a) and _was_played(new, b)
    )


def _full_name(model: Model) -> str:
    return f"{model.name}@{target_name(model)}"


def _was_played(run: ComparedRun, model: Model) -> bool:
    return (target_name(model), model.name) in served_by(run)
