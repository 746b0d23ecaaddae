"""`pairs.json`: which runs of two variants were played in which block. Its data, its writer and its reader."""

from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from loadgen.decisions.versus.order import BlockOrder
from loadgen.errors import InputError
from loadgen.scenario.file import is_file
from loadgen.store import files, run_folder
from loadgen.store.manifest import Variant

SCHEMA: Final = "loadgen.pairs/1"
PAIRS: Final = "pairs.json"


class Block(Struct, frozen=True):
    """The ids of two runs that were played next to each other, one of each variant."""

    a: str
    b: str


class UnusedRun(Struct, frozen=True):
    """A run that is in no block, because its block was played again or was never complete."""

    run: str
    variant: Variant
    block: int
    """The number of the block, from 1."""
    why: str


class Pairs(Struct, frozen=True, kw_only=True):
    """The blocks of two variants that were played so far."""

    schema: str = SCHEMA
    order: tuple[BlockOrder, ...]
    """The order of each block, including the blocks that are still to be played."""
    blocks: tuple[Block, ...] = ()
    """The complete blocks; their runs are beside the folder of this file."""
    versus: dict[str, Any]
    """The values in which B differs from A, by the scenario's key; null: B does not have that key."""
    unused: tuple[UnusedRun, ...] = ()


class PairsLog:
    """Writes `pairs.json` after each run, so that the complete blocks are kept if the program is killed."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.asked = len(pairs.order)
        """The number of blocks to play."""
        self.folder: Path | None = None
        """The folder, `<first run>-ab<blocks>`; None before the first run."""

    def begin(self, run: Path) -> None:
        """Make the folder beside a run's folder, if there is none yet. Raises FolderError if it cannot be made."""
        if self.folder is not None:
            return
        folder = run.with_name(f"{run.name}-ab{self.asked}")
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise run_folder.no_longer_written(run, error) from error
        self.folder = folder
        self._write()

    def add_block(self, block: Block) -> None:
        """Add a block that was played to its end."""
        self._update(blocks=(*self.pairs.blocks, block))

    def add_unused(self, runs: tuple[UnusedRun, ...]) -> None:
        """Add the runs of a block that is not complete."""
        if runs:
            self._update(unused=(*self.pairs.unused, *runs))

    def drop_block(self) -> None:
        """Remove the last block from the order: it is not played again."""
        block_count = len(self.pairs.blocks)
        self._update(order=(*self.pairs.order[:block_count], *self.pairs.order[block_count + 1 :]))

    def _update(self, **changes: Any) -> None:
        self.pairs = msgspec.structs.replace(self.pairs, **changes)
        self._write()

    def _write(self) -> None:
        assert self.folder is not None
        try:
            files.write_json(self.folder / PAIRS, self.pairs)
        except OSError as error:
            raise run_folder.no_longer_written(self.folder, error) from error


def has_pairs(path: str | Path) -> bool:
    """Whether a path is a folder of two variants."""
    return is_file(Path(path) / PAIRS)


def read_pairs(folder: Path) -> Pairs:
    """Read `pairs.json` of a folder. Raises InputError if there is none or it cannot be read."""
    path = folder / PAIRS
    try:
        pairs = msgspec.json.decode(path.read_bytes(), type=Pairs)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a folder that --versus made") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not the blocks of two variants ({error}); is the folder damaged?") from error
    if pairs.schema != SCHEMA:
        raise InputError(f"{path}: schema is {pairs.schema!r}, this loadgen reads {SCHEMA!r}; use the other version")
    return pairs
