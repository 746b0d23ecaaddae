"""Whether a process still runs."""

import os
import subprocess
import sys

import pytest

from loadgen.telemetry.processes import is_running


def test_we_run_ourselves() -> None:
    assert is_running(os.getpid())


@pytest.mark.skipif(sys.platform == "win32", reason="it has no zombies")
def test_a_process_that_has_ended_and_that_its_parent_has_not_asked_about_does_not_run() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
        assert not is_running(process.pid)
    finally:
        process.wait()
    assert not is_running(process.pid)
