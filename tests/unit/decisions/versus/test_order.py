"""The order of blocks: balanced, random by the seed, and never the same variant first throughout."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from loadgen.decisions.versus.order import block_orders


@given(st.integers(2, 60), st.integers(0, 2**64))
def test_half_of_the_blocks_begin_with_each_variant(blocks: int, seed: int) -> None:
    counts = Counter(block_orders(blocks, seed))
    assert counts.total() == blocks
    assert abs(counts["AB"] - counts["BA"]) == blocks % 2


def test_the_seed_decides_the_order() -> None:
    assert block_orders(6, 1) == block_orders(6, 1)
    assert len({block_orders(6, seed) for seed in range(100)}) == 20, "all orders with half of the blocks each way"


def test_of_an_odd_number_of_blocks_either_variant_may_be_first_more_often() -> None:
    assert {Counter(block_orders(5, seed))["AB"] for seed in range(20)} == {2, 3}
