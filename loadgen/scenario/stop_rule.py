"""The stop rule as data: how precisely a percentile must be known to end a stage, `ttft_p99:5%`. Knows no request."""

import re
from typing import Final

from msgspec import Struct

from loadgen.scenario.problem import suggestion, toml_text

STOP_RULE_METRICS: Final = ("ttft", "service_ttft", "itl", "tpot", "e2e")
STREAMED: Final = ("ttft", "service_ttft", "itl", "tpot")
"""The metrics that an answer that is not streamed does not have."""
PERCENTILES: Final = ("50", "90", "95", "99", "99.9")
EXAMPLE: Final = "ttft_p99:5%"


class StopRule(Struct, frozen=True):
    """A stage may end when this percentile is known this precisely."""

    metric: str
    """As in the summary, without `_ms`."""
    p: float
    """Percent."""
    within: float
    """The largest relative half-width of the percentile's interval that is narrow enough: 0.05 for ±5 %."""

    @property
    def percentile(self) -> str:
        """As the summary names it: p99."""
        return f"p{self.p:g}"

    def __str__(self) -> str:
        return f"{self.metric} {self.percentile} ±{100 * self.within:.3g} %"


def stop_rule_of(text: str) -> StopRule:
    """The stop rule that METRIC_pNN:PERCENT% describes. Raises ValueError if `mismatch` finds a problem."""
    wrong = mismatch(text)
    if wrong is not None:
        raise ValueError("; ".join(wrong))
    name, percent = text.rstrip("%").split(":")
    metric, _, p = name.rpartition("_p")
    return StopRule(metric, float(p), float(percent) / 100)


def mismatch(text: str) -> tuple[str, str] | None:
    """What is wrong with the text of a stop rule and how to fix it, in words; None if it is right."""
    match = re.fullmatch(r"([A-Za-z0-9_]+)_p([0-9.]+):([0-9]+(?:\.[0-9]+)?)%", text)
    if not match:
        return f"{toml_text(text)} is not METRIC_pNN:PERCENT%", f"write e.g. {EXAMPLE}"
    metric, p, percent = match[1], match[2], match[3]
    if metric not in STOP_RULE_METRICS:
        guess = suggestion(metric, STOP_RULE_METRICS)
        *others, last = STOP_RULE_METRICS
        hint = f"did you mean {guess}?" if guess else f"write {', '.join(others)} or {last}"
        return f"{toml_text(metric)} is not a metric that a stage can wait for", hint
    if p not in PERCENTILES:
        known = ", ".join(f"p{p}" for p in PERCENTILES[:-1])
        return f"p{p} is not a percentile of the reports", f"write {known} or p{PERCENTILES[-1]}"
    if not 0 < float(percent) <= 100:
        return f"{percent}% is not a width above 0 and at most 100 %", f"write e.g. {EXAMPLE}"
    return None
