"""The order in which two variants are played: in blocks, so that a drift of the machine affects both alike. Pure."""

from typing import Final, Literal

import numpy as np

from loadgen.plan.rng import generator

BLOCKS: Final = 6
"""The default number of blocks."""

BlockOrder = Literal["AB", "BA"]
"""Which variant is played first in a block."""


def block_orders(blocks: int, seed: int) -> tuple[BlockOrder, ...]:
    """A random order for each block, from the seed. Each variant is first in half of the blocks; if their number is
    odd, chance decides which variant is first once more. With two blocks or more, no variant is always first."""
    rng = generator(seed, "versus")
    turned = (np.arange(blocks) + rng.integers(2)) % 2
    return tuple("BA" if is_turned else "AB" for is_turned in rng.permutation(turned))
