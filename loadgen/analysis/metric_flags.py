"""Which of a stage's numbers do not mean what their names say on this server, and why. Pure.

The records decide and the probe explains: a number is flagged only if the stage's own answers show the reason.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import UNSET, Struct

from loadgen.analysis.held_back import MOST, HeldBack
from loadgen.record import Record
from loadgen.scenario import Slo
from loadgen.store.manifest import Probe
from loadgen.targets.probe.findings import shown_tokens

PACKED: Final = 1.25
"""From this many tokens per token-bearing event on, an event does not count as a token."""
COUNTED: Final = ("output_tokens_per_s", "per_user_tokens_per_s", "e2e_tokens_per_s", "tpot_ms")
"""The numbers that are computed from the number of output tokens."""
CACHED: Final = 0.1
"""If a larger share of a stage's prompt tokens came from a cache, its TTFT is not that of new prompts."""
FIRST: Final = ("ttft_ms", "service_ttft_ms", "ttft_from_send_ms", "ttfc_ms")
"""The numbers that are computed from the arrival of the first tokens."""
PACED: Final = (*FIRST, "tpot_ms", "itl_ms", "per_user_tokens_per_s")
"""The numbers that are computed from the arrival of tokens."""


class MetricFlags(Struct, frozen=True):
    """not_valid: by metric, as the summary names it, why it does not mean what its name says. nulled: those of them
    that would be wrong, not only different; the summary has null for them."""

    not_valid: dict[str, str]
    nulled: frozenset[str] = frozenset()
    held_back: HeldBack | None = None
    """How the tokens were held back on their way; None if they were not."""


def metric_flags(records: Sequence[Record], probe: Probe | None, held_back: HeldBack | None = None) -> MetricFlags:
    """The flags of a stage. records: its ok measured requests. probe: None if the server was not probed. held_back: how
    its tokens were held back; None if they were not."""
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
    if held_back is not None:
        not_valid |= dict.fromkeys(PACED, held_back_words(held_back))
        nulled |= {"tpot_ms", "itl_ms", "per_user_tokens_per_s"}
    else:
        in_one_read = _in_one_read(streamed)
        not_valid |= in_one_read
        nulled |= set(in_one_read)
    if (cached := _cached(records)) is not None:
        names = FIRST if streamed else ("e2e_ms", "e2e_tokens_per_s")
        not_valid |= {name: f"{not_valid[name]}; {cached}" if name in not_valid else cached for name in names}
    return MetricFlags(not_valid, nulled, held_back)


def judged(slo: Slo, flags: MetricFlags) -> tuple[Slo, dict[str, str]]:
    """The limits of an SLO that can be judged, and the reasons why others cannot: if a latency is not known, its limit
    is neither met nor missed."""
    unknown = [name for name in ("ttft_ms", "tpot_ms") if getattr(slo, name) is not None and name in _unjudged(flags)]
    if not unknown:
        return slo, {}
    titles = " and ".join(name.removesuffix("_ms").upper() for name in unknown)
    verb = "is" if len(unknown) == 1 else "are"
    why = f"{titles} {verb} not judged: {flags.not_valid[unknown[-1]]}"
    left: dict[str, None] = dict.fromkeys(unknown)
    return msgspec.structs.replace(slo, **left), {"slo": why, "goodput_requests_per_s": why}


def _unjudged(flags: MetricFlags) -> frozenset[str]:
    """The latencies whose SLO cannot be judged."""
    return flags.nulled if flags.held_back is None else flags.nulled | {"ttft_ms"}


def held_back_words(held_back: HeldBack) -> str:
    """How the tokens of a stage arrived, in words."""
    arrivals = "1 arrival" if held_back.arrivals == 1 else f"{held_back.arrivals} arrivals"
    tokens = f"{'about ' if held_back.is_estimated else ''}{held_back.tokens} tokens"
    came = f"{tokens} in {arrivals} within {held_back.span_ns / 1e6:.3g} ms (medians)"
    return f"tokens were held back in {held_back.answers} of {held_back.judged} answers: {came}"


def _counted_by_events(bare: int, count: int) -> dict[str, str]:
    who = "the server sends no usage" if bare == count else f"{bare} of {count} answers came without usage"
    not_valid = dict.fromkeys(COUNTED, f"tokens are counted by events: {who}")
    return not_valid | {"prompt_tokens": f"not known: {who}"} if bare == count else not_valid


def _in_one_read(streamed: Sequence[Record]) -> dict[str, str]:
    """The marks of a stage most of whose answers came in one read each: it has one stamp, and no pace is in it, whoever
    was late."""
    several = [record for record in streamed if len(record.stamps_ns) > 1]
    count = sum(record.stamps_ns[0] == record.stamps_ns[-1] for record in several)
    if count <= MOST * len(several):
        return {}
    # Gaps between reads are left where some answers have them.
    names = ("tpot_ms", "per_user_tokens_per_s", *(("itl_ms",) if count == len(several) else ()))
    return dict.fromkeys(
        names, f"in {count} of {len(several)} answers, all tokens came in one read, which has one stamp"
    )


def _cached(records: Sequence[Record]) -> str | None:
    """How much of a stage's prompts came from the server's cache; None if it was little, or if the server does not
    say."""
    reported = [(record, record.cached_tokens) for record in records if record.cached_tokens is not UNSET]
    cached = sum(count for _, count in reported)
    # Some servers mention their cache only if it was used, so the prompt tokens of all requests count.
    prompt = sum(record.prompt_tokens for record in records if record.prompt_tokens is not None)
    if not any(record.prompt_tokens is not None for record, _ in reported):
        prompt = cached + sum(record.timings.prompt_n for record, _ in reported if record.timings is not None)
        if cached and prompt == cached:
            return f"{cached:,} prompt tokens came from the server's cache, and it does not say of how many"
    elif cached > prompt:  # Anthropic counts a prompt without what was in its cache
        prompt += cached
    if cached <= CACHED * prompt:
        return None
    return f"{cached / prompt:.0%} of the prompt tokens came from the server's cache ({cached:,} of {prompt:,})"


def _hidden(ratio: float) -> dict[str, str]:
    counted = f"the server counts {ratio:.3g} tokens for each token that it shows, so reasoning is hidden"
    return {
        "ttft_ms": f"includes hidden reasoning; {counted}",
        "service_ttft_ms": f"includes hidden reasoning; {counted}",
        "tpot_ms": f"not known; {counted}",
        "per_user_tokens_per_s": f"not known; {counted}",
        "output_tokens_per_s": f"counts tokens that no user sees; {counted}",
        "e2e_tokens_per_s": f"counts tokens that no user sees; {counted}",
    }


def _packed(ratio: float, probe: Probe | None, *, all_told: bool) -> dict[str, str]:
    not_valid = {"itl_ms": f"between events, of {ratio:.3g} tokens each on average"}
    if all_told or (probe is not None and probe.hidden_tokens == 0):
        return not_valid | {
            "tpot_ms": f"a little too short: the first event has several tokens ({ratio:.3g} on average)"
        }
    why = f"usage counts {ratio:.3g} tokens for each event, so events have several tokens, or some tokens are not shown"
    return not_valid | dict.fromkeys(COUNTED, why)
