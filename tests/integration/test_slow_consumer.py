"""A harness that is held up again and again: its stamps stay true, and its run is called invalid all the same."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from loadgen.mock import FixedTime, MockProcess, Script
from tests.e2e.test_commands import run_folder

SCRIPT = Script(ttft_s=FixedTime(0.05), itl_s=FixedTime(0.02), tokens=FixedTime(30))
STOPPED_S = 0.2


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGSTOP")
def test_a_slow_consumer_calls_its_own_run_invalid(tmp_path: Path) -> None:
    load = ("--concurrency", "8", "--requests", "24", "--set", "probe=false", "--quiet", "--out", str(tmp_path))
    with MockProcess(SCRIPT) as server:
        command = [sys.executable, "-m", "loadgen", "run", "--url", server.url, "--model", "mock", *load]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while process.poll() is None and not list(tmp_path.glob("*/*/requests.jsonl")):
                time.sleep(0.05)
            while process.poll() is None:
                for sent in (signal.SIGSTOP, signal.SIGCONT):
                    os.kill(process.pid, sent)
                    time.sleep(STOPPED_S)
        finally:
            process.kill()
            process.wait(60)
    (stage,) = msgspec.json.decode((run_folder(tmp_path, "adhoc") / "summary.json").read_bytes())["stages"]
    assert process.returncode == 1
    assert stage["requests"]["ok"] == 24
    assert stage["validity"]["verdict"] == "invalid"
    fatal = {reason["code"] for reason in stage["validity"]["reasons"] if reason["fatal"]}
    assert "stamp_lag" in fatal
