"""Whether a percentile is known precisely enough; knows no unit."""

from collections.abc import Sequence

from loadgen.stats.quantile import Quantile


def relative_half_width(quantile: Quantile) -> float | None:
    """(high − low) / 2 / value; None if one of them is not known, or the value is not above 0."""
    if quantile.value is None or quantile.low is None or quantile.high is None or quantile.value <= 0:
        return None
    return (quantile.high - quantile.low) / 2 / quantile.value


def is_settled(looks: Sequence[Quantile], within: float) -> bool:
    """Whether a percentile is known precisely enough to stop measuring: its interval is narrow in two looks in a row.

    looks: the percentile at each look so far, at STOPPED_CONFIDENCE. The first look has twice `floor_of` samples and at
    least 30, and each later look a quarter more than the one before. within: the largest relative half-width, 0.05 for
    ±5 %. One look is not enough, because the first narrow interval is often narrow only because the percentile is too
    low by chance (docs/intervals.md).
    """
    widths = [relative_half_width(look) for look in looks[-2:]]
    return len(widths) == 2 and all(width is not None and width <= within for width in widths)
