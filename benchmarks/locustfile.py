"""What one would write to measure a token stream with Locust: TTFT and ITL fired as requests of its own kinds.

Run by `benchmarks/accuracy.py`; BENCH_STREAMS and BENCH_ASKS say how many users there are, and how often each asks.
"""

import importlib
import os
import time
from typing import Any

locust: Any = importlib.import_module("locust")

STREAMS, ASKS = int(os.environ.get("BENCH_STREAMS", "1")), int(os.environ.get("BENCH_ASKS", "1"))
ASK = {"model": "m", "messages": [{"role": "user", "content": "Tick."}], "max_tokens": 4096, "stream": True}
ended = 0


class Reader(locust.HttpUser):  # type: ignore[misc]
    """A user who asks, reads the answer to its end, and asks again."""

    def on_start(self) -> None:
        self.asked = 0

    @locust.task  # type: ignore[untyped-decorator]
    def read(self) -> None:
        global ended
        self.asked += 1
        last = started = time.perf_counter()
        tokens = 0
        response = self.client.post("/v1/chat/completions", json=ASK, stream=True, name="answer")
        for line in response.iter_lines():
            if line.startswith(b"data: {") and b'"content":' in line:
                now = time.perf_counter()
                self._fire("ITL" if tokens else "TTFT", now - (last if tokens else started))
                last = now
                tokens += 1
        if self.asked == ASKS:
            ended += 1
            if ended == STREAMS:
                self.environment.runner.quit()
            raise locust.exception.StopUser

    def _fire(self, name: str, took_s: float) -> None:
        self.environment.events.request.fire(
            request_type="SSE", name=name, response_time=took_s * 1e3, response_length=0, exception=None, context={}
        )
