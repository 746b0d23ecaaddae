"""From what a client reports and what really happened: its errors, and what it cost. Pure."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from benchmarks.contenders import ClientAnswer, Pair, Reported
from benchmarks.truth import Load, ServerAnswer, quantile

Ms = NDArray[np.float64]
PERCENTS: Final = (50, 99)


class Sizes(Struct, frozen=True):
    """Sizes of errors of single requests or tokens, ms: p50, p99, maximum."""

    p50: float
    p99: float
    most: float


class Figures(Struct, frozen=True, kw_only=True):
    """One client at one load. The first three: reported p50 and p99 minus true p50 and p99, ms; None: not reported.

    of_ttft, of_service_ttft, of_itl: error of each request and each gap whose tokens shared no read with a later one;
    None where the client tells of no single requests. shared: share of gaps that are left out. cpu_us: CPU time a
    token, from the first request to the last token. late_p99_ms: how late the server was by its own script (in the
    truth as well). width_p99_ms: how long its sends took, which is how exact the truth is.
    """

    ttft: Pair | None
    service_ttft: Pair | None
    itl: Pair | None
    of_ttft: Sizes | None = None
    of_service_ttft: Sizes | None = None
    of_itl: Sizes | None = None
    shared: float | None = None
    cpu_us: float | None = None
    late_p99_ms: float | None = None
    width_p99_ms: float = 0.0

    @property
    def distance_ms(self) -> float | None:
        """How far a client's best account of the server's TTFT is from it: the larger error of p50 and p99."""
        best = self.service_ttft or self.ttft
        return None if best is None else max(abs(error) for error in best)


def figures(load: Load, reported: Reported, sent: Sequence[ServerAnswer], cpu_ns: float | None) -> Figures:
    """A client's figures. sent: the server's account of the same requests."""
    per_request = _of_each(reported.answers, sent) if reported.answers else {}
    late = [each.late_ns for each in sent if each.late_ns is not None]
    return Figures(
        ttft=_errors(reported.ttft_ms or _p50_p99(_ttfts(reported.answers)), _true_ttfts(sent), reported),
        service_ttft=_errors(
            reported.service_ttft_ms or _p50_p99(_service_ttfts(reported.answers)), _true_ttfts(sent), reported
        ),
        itl=_errors(reported.itl_ms or _p50_p99(_gaps(reported.answers)), _true_itls(sent, reported), reported),
        cpu_us=None if cpu_ns is None else cpu_ns / 1e3 / (load.requests * load.tokens),
        late_p99_ms=quantile(np.concatenate(late), 99) / 1e6 if late else None,
        width_p99_ms=quantile(np.concatenate([each.width_ns for each in sent]), 99) / 1e6,
        **per_request,
    )


def _p50_p99(values: Ms) -> Pair | None:
    return (quantile(values, 50), quantile(values, 99)) if len(values) else None


def _errors(said: Pair | None, truth: Ms, reported: Reported) -> Pair | None:
    if said is None:
        return None
    return (
        said[0] - quantile(truth, PERCENTS[0], linear=reported.linear),
        said[1] - quantile(truth, PERCENTS[1], linear=reported.linear),
    )


def _true_ttfts(sent: Sequence[ServerAnswer]) -> Ms:
    return np.array([each.ttft_ns for each in sent]) / 1e6


def _true_itls(sent: Sequence[ServerAnswer], reported: Reported) -> Ms:
    gaps = [np.diff(each.tokens_ns) / 1e6 for each in sent]
    return np.concatenate(gaps) if reported.itl_of == "gaps" else np.array([each.mean() for each in gaps])


def _ttfts(received: Sequence[ClientAnswer]) -> Ms:
    return np.array([each.stamps_ns[0] - each.sent_ns for each in received]) / 1e6


def _service_ttfts(received: Sequence[ClientAnswer]) -> Ms:
    return np.array([each.stamps_ns[0] - each.written_ns for each in received if each.written_ns is not None]) / 1e6


def _gaps(received: Sequence[ClientAnswer]) -> Ms:
    return np.array([gap for each in received for gap in np.diff(each.stamps_ns)], dtype=np.float64) / 1e6


def _of_each(received: Sequence[ClientAnswer], sent: Sequence[ServerAnswer]) -> dict[str, Any]:
    """Errors request by request and gap by gap, without tokens that came in one read with a later one, whose stamp is
    that read's and so not theirs."""
    by_number = {each.number: each for each in sent}
    ttft, service, itl, gaps = [], [], [], 0
    for answer in received:
        truth = by_number[answer.number]
        stamps = np.array(answer.stamps_ns, dtype=np.int64)
        if len(stamps) != len(truth.tokens_ns):
            raise SystemExit(
                f"request {answer.number}: {len(stamps)} tokens were seen, {len(truth.tokens_ns)} were sent"
            )
        own = np.append(np.diff(stamps) > 0, True)
        if own[0]:
            ttft.append(stamps[0] - answer.sent_ns - truth.ttft_ns)
            if answer.written_ns is not None:
                service.append(stamps[0] - answer.written_ns - truth.ttft_ns)
        itl.append((np.diff(stamps) - np.diff(truth.tokens_ns))[own[1:] & own[:-1]])
        gaps += len(stamps) - 1
    counted = np.concatenate(itl)
    return {
        "of_ttft": _sizes(np.array(ttft)),
        "of_service_ttft": _sizes(np.array(service)),
        "of_itl": _sizes(counted),
        "shared": 1 - len(counted) / gaps,
    }


def _sizes(errors_ns: NDArray[np.int64]) -> Sizes | None:
    if not len(errors_ns):
        return None
    sizes = np.abs(errors_ns) / 1e6
    return Sizes(quantile(sizes, 50), quantile(sizes, 99), float(sizes.max()))


def median(rounds: Sequence[Figures]) -> Figures:
    """The median of each figure over rounds."""
    first = rounds[0]
    if len(rounds) == 1:
        return first
    return Figures(**{name: _middle([getattr(each, name) for each in rounds]) for name in Figures.__struct_fields__})


def _middle(values: list[Any]) -> Any:
    known = [value for value in values if value is not None]
    if not known:
        return None
    if isinstance(known[0], tuple):
        return tuple(float(np.median(column)) for column in zip(*known, strict=True))
    if isinstance(known[0], Sizes):
        return Sizes(*(float(np.median([getattr(each, name) for each in known])) for name in ("p50", "p99", "most")))
    return float(np.median(known))
