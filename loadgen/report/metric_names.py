"""The names of metrics in reports, and the mark for a metric that is not what its name says on a server. Pure."""

from typing import Final

from loadgen.analysis.summary import StageSummary

DAGGER: Final = "†"
"""The mark after a number that does not mean what its heading says on this server."""
_TITLES: Final = {
    "service_ttft": "service TTFT",
    "ttft_from_send": "TTFT from the send",
    "e2e_from_send": "E2E from the send",
    "queue": "queue",
    "connect": "connect",
    "output_tokens_per_s": "tok/s",
    "per_user_tokens_per_s": "tok/s/user",
    "e2e_tokens_per_s": "tok/s E2E",
    "goodput_requests_per_s": "goodput",
    "requests_per_s": "requests/s",
    "prompt_tokens": "prompt tokens",
    "slo": "SLO met",
}


def metric_title(metric: str) -> str:
    """The heading of a metric of `summary.json`: `TTFT` for `ttft_ms`, `tok/s` for `output_tokens_per_s`."""
    name = metric.removesuffix("_ms")
    return _TITLES[name] if name in _TITLES else name.upper()


def marked(stage: StageSummary, metric: str, cell: str) -> str:
    """A cell, with a dagger if its metric is not valid on this server."""
    return f"{cell} {DAGGER}" if metric in stage.not_valid else cell
