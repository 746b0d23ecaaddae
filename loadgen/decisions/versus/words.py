"""The lines that are printed about two variants before they are played. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from loadgen.decisions.versus.order import block_orders
from loadgen.decisions.versus.variants import changed_keys, value_text
from loadgen.plan.plan import Plan
from loadgen.stats.permutation import fewest_blocks

ALPHA: Final = 0.05
"""The significance level of a comparison, unless another is asked for."""


def variant_lines(base: Plan, new: Plan, blocks: int) -> Iterator[str]:
    """The number of blocks and their order, how B differs from A, and what so few blocks cannot show."""
    orders = block_orders(blocks, base.scenario.seed)
    yield f"{blocks} blocks of two runs, A (unchanged) and B (the variant), in this order: {' '.join(orders)}"
    yield keys_line(changed_keys(base.scenario, new.scenario))
    fewest = fewest_blocks(ALPHA)
    if blocks < fewest:
        yield f"{blocks} blocks cannot show a regression; --repeats {fewest} can"


def variant_data(base: Plan, new: Plan, blocks: int) -> dict[str, Any]:
    """The same as data."""
    order = block_orders(blocks, base.scenario.seed)
    return {"order": list(order), "keys": changed_keys(base.scenario, new.scenario)}


def keys_line(versus: Mapping[str, Any]) -> str:
    """How B differs from A: `B: models[0].llamacpp.threads is 1`."""
    if not versus:
        return "B is the same as A"
    named = (f"{key} is {value_text(value)}" for key, value in versus.items())
    return f"B: {', '.join(named)}"
