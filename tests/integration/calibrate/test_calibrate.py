"""A small calibration from end to end: a scripted server in its own process, our client, and the file it leaves."""

from pathlib import Path

import msgspec
import pytest

from loadgen.calibrate import measure
from loadgen.calibrate.loads import LoadStep
from loadgen.calibrate.measure import calibrate
from loadgen.calibrate.text import calibration_text
from loadgen.report.text_table import Screen
from loadgen.store.calibration import keep, stored, this_machine

SMALL = (
    LoadStep(series="streams", streams=(1, 8), itl_ms=20.0, full_s=0.2, ramp_in_s=0.1),
    LoadStep(series="rates", streams=(22,), itl_ms=2.0, full_s=0.1, ramp_in_s=0.1),  # two servers, on three cores
)


def test_every_token_that_was_sent_is_compared_and_the_result_can_be_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "usable_cores", lambda: 3)
    told: list[tuple[str, int, int]] = []
    found = calibrate(SMALL, lambda load, done, of: told.append((load, done, of)))

    # A busy machine may have a load played again, or end the climb at it: what was played must be whole.
    first, last = found.steps[0], found.steps[-1]
    assert (first.series, first.streams, first.events) == ("streams", 1, 10)
    assert first.events_per_s > 0
    assert (last.series, last.streams, last.events) == ("rates", 22, 22 * 100)
    for step in found.steps:
        course = SMALL[step.series == "rates"]
        assert step.answers == step.streams
        assert step.events == step.streams * course.tokens_of(step.streams)
        assert step.wrong == 0
    for step in found.steps:
        assert step.user is not None
        assert 0 <= step.user.p50_us <= step.user.p99_us <= step.user.max_us
        assert step.cpu_us_per_event > 0
        assert step.service_ttft is not None
        # The kernel has stamped a read before we could: what is left is the reading of two clocks.
        assert step.kernel is None or step.kernel.p50_us <= step.user.p50_us + 1
    assert told[0] == ("1 stream, 50 tokens a second", 0, 3)
    assert told[-1][1:] == (2, 3)
    assert found.machine == this_machine()

    path = tmp_path / "calibration.json"
    keep(found, path)
    assert stored(path).calibration == found
    other = msgspec.structs.replace(this_machine(), kernel="another")
    assert stored(path, other).calibration is None
    assert "budget:" in calibration_text(found, Screen(80))
