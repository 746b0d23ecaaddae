"""HdrHistogram's JavaScript tools read our interval log: other code, another language, the same counts."""

import base64
import json
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadgen.plan.rng import generator
from loadgen.stats.histogram import HIGHEST_NS, Histogram
from loadgen.store.hlog import Interval, interval_log, tag

pytestmark = pytest.mark.e2e

JS = Path(__file__).parent / "js"
STARTED_EPOCH_S = 1_700_000_000.25


def read_with_javascript(log: str, folder: Path) -> dict[str, Any]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not on the PATH: install Node.js 18 or later")
    if not (JS / "node_modules" / "hdr-histogram-js").is_dir():
        pytest.skip("hdr-histogram-js is not installed: run `npm install --prefix tests/e2e/js`")
    path = folder / "histograms.hlog"
    path.write_text(log, encoding="utf-8", newline="\n")
    run = subprocess.run(
        [node, str(JS / "read_hlog.mjs"), str(path)], capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def recorded(*values: int) -> Histogram:
    histogram = Histogram()
    histogram.record(np.array(values, dtype=np.int64))
    return histogram


def intervals() -> list[Interval]:
    rng = generator(1, "hlog")
    gaps = Histogram()
    gaps.record(rng.lognormal(17.5, 0.8, 20_000).astype(np.int64))
    many = recorded(5_000, 7_000_000)
    for _ in range(40):  # counts beyond 32 bits
        many.merge(many)
    return [
        Interval(tag("llamacpp", "smollm2-135m", "c1", "itl"), 0.0, 60.0, gaps),
        Interval(tag("llamacpp", "smollm2-135m", "c1", "connect"), 0.0, 60.0, recorded()),
        Interval(
            tag("llamacpp", "smollm2-135m", "c4", "ttft"), 60.5, 41.2, recorded(0, 1, 511, 512, 999, 2**20, 2**40)
        ),
        Interval(tag("url", "org/a model, v2", "poisson 5", "e2e"), 101.7, 30.0, recorded(HIGHEST_NS, HIGHEST_NS - 1)),
        Interval(tag("url", "soak", "c1", "itl"), 131.7, 60.0, many),
    ]


def nonzero(histogram: Histogram) -> list[tuple[int, int]]:
    return [(index, int(histogram.counts[index])) for index in np.flatnonzero(histogram.counts).tolist()]


def counts_read(found: dict[str, Any]) -> list[list[tuple[int, int]]]:
    return [[(index, count) for index, count in interval["counts"]] for interval in found["intervals"]]


def with_one_count_more(encoded: str) -> str:
    """The encoding with its last count, which must fit one byte, raised by one; made without our codec."""
    outer = base64.b64decode(encoded)
    inner = bytearray(zlib.decompress(outer[8:]))
    inner[-1] += 2  # ZigZag: one more is two more
    body = zlib.compress(bytes(inner))
    return base64.b64encode(outer[:4] + len(body).to_bytes(4, "big") + body).decode()


def test_hdr_histogram_js_reads_the_same_tags_times_maxima_and_counts(tmp_path: Path) -> None:
    written = intervals()
    found = read_with_javascript(interval_log(STARTED_EPOCH_S, written), tmp_path)
    assert found["tags"] == [interval.tag for interval in written]
    assert [interval["tag"] for interval in found["intervals"]] == [interval.tag for interval in written]
    assert counts_read(found) == [nonzero(interval.histogram) for interval in written]
    for theirs, interval in zip(found["intervals"], written, strict=True):
        ours = Histogram.decode(interval.histogram.encode())
        assert theirs["total"] == interval.histogram.count
        assert theirs["max"] == (ours.max_ns or 0)
        assert theirs["start_ms"] == pytest.approx((STARTED_EPOCH_S + interval.start_s) * 1_000)
        assert theirs["end_ms"] - theirs["start_ms"] == pytest.approx(interval.length_s * 1_000)


def test_a_count_that_was_tampered_with_is_seen_by_hdr_histogram_js(tmp_path: Path) -> None:
    histogram = recorded(48_000_000, 48_000_000, 52_000_000)
    log = interval_log(STARTED_EPOCH_S, [Interval("a/b/c1/itl", 0.0, 1.0, histogram)])
    encoded = histogram.encode()
    found = read_with_javascript(log.replace(encoded, with_one_count_more(encoded)), tmp_path)
    (first, last) = nonzero(histogram)
    assert counts_read(found) == [[first, (last[0], last[1] + 1)]]
    assert found["intervals"][0]["total"] == 4
