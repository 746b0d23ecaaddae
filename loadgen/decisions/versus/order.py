"""In which order two variants are played: in blocks, so that both meet the same drift of the machine. Pure."""

from typing import Final, Literal

import numpy as np

from loadgen.plan.rng import generator

BLOCKS: Final = 6
"""Played by default."""

BlockOrder = Literal["AB", "BA"]
"""Which variant is played first in a block."""


def block_orders(blocks: int, seed: int) -> tuple[BlockOrder, ...]:
    """An order for each block, random by the seed: half of them each way; of an odd number, chance decides which way
    has one more. From two blocks on, no variant is always first."""
    rng = generator(seed, "versus")
    turned = (np.arange(blocks) + rng.integers(2)) % 2
    return tuple("BA" if is_turned else "AB" for is_turned in rng.permutation(turned))
