"""Which of a stage's numbers do not mean what their name says on this server, and why. Pure.

The records decide, the probe explains: a mark stands where the stage's own answers bear it out.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.record import Record
from loadgen.scenario import Slo
from loadgen.store.manifest import Probe
from loadgen.targets.probe.findings import shown_tokens

PACKED: Final = 1.25
"""Tokens a token-bearing event from which on an event is not a token."""
COUNTED: Final = ("output_tokens_per_s", "per_user_tokens_per_s", "e2e_tokens_per_s", "tpot_ms")
"""What is computed from the number of output tokens."""


class MetricFlags(Struct, frozen=True):
    """not_valid: by metric, as the summary names it, why it is not what its name says. nulled: those that would be
    wrong, not only different: they are null."""

    not_valid: dict[str, str]
    nulled: frozenset[str] = frozenset()


def metric_flags(records: Sequence[Record], probe: Probe | None) -> MetricFlags:
    """The marks of a stage. records: its ok measured requests. probe: None when the server was not probed."""
    streamed = [record for record in records if record.stamps_ns]
    counted = [record for record in streamed if record.token_source == "usage"]
    bare = len(streamed) - len(counted)
    not_valid: dict[str, str] = {}
    nulled: frozenset[str] = frozenset()
    if bare:
        not_valid |= _counted_by_events(bare, len(streamed))
    events = sum(len(record.stamps_ns) for record in counted)
    ratio = sum(shown_tokens(record) for record in counted) / events if events else 1.0
    if ratio >= PACKED:
        if probe is not None and probe.hidden_tokens:
            not_valid |= _hidden(ratio)
            nulled = frozenset({"tpot_ms", "per_user_tokens_per_s"})
        else:
            not_valid |= _packed(ratio, probe, all_told=all(record.tokens_per_event for record in counted))
    return MetricFlags(not_valid, nulled)


def judged(slo: Slo, flags: MetricFlags) -> tuple[Slo, dict[str, str]]:
    """The SLO that can be judged, and the marks of what is judged by it: a TPOT that is not known is neither met nor
    missed."""
    if slo.tpot_ms is None or "tpot_ms" not in flags.nulled:
        return slo, {}
    why = f"TPOT is not judged, it is {flags.not_valid['tpot_ms']}"
    return msgspec.structs.replace(slo, tpot_ms=None), {"slo": why, "goodput_requests_per_s": why}


def _counted_by_events(bare: int, count: int) -> dict[str, str]:
    who = "the server sends no usage" if bare == count else f"{bare} of {count} answers came without usage"
    not_valid = dict.fromkeys(COUNTED, f"tokens are counted by events: {who}")
    return not_valid | {"prompt_tokens": f"not known: {who}"} if bare == count else not_valid


def _hidden(ratio: float) -> dict[str, str]:
    counted = f"the server counts {ratio:.3g} tokens for each one it shows: reasoning is hidden"
    return {
        "ttft_ms": f"has the hidden reasoning in it; {counted}",
        "service_ttft_ms": f"has the hidden reasoning in it; {counted}",
        "tpot_ms": f"not known; {counted}",
        "per_user_tokens_per_s": f"not known; {counted}",
        "output_tokens_per_s": f"not the speed of what a user sees; {counted}",
        "e2e_tokens_per_s": f"not the speed of what a user sees; {counted}",
    }


def _packed(ratio: float, probe: Probe | None, *, all_told: bool) -> dict[str, str]:
    not_valid = {"itl_ms": f"between events, of {ratio:.3g} tokens each on average"}
    if all_told or (probe is not None and probe.hidden_tokens == 0):
        return not_valid | {
            "tpot_ms": f"a little too short: the first event has several tokens ({ratio:.3g} on average)"
        }
    why = f"usage counts {ratio:.3g} tokens for each event: several an event, or some that are not shown"
    return not_valid | dict.fromkeys(COUNTED, why)
