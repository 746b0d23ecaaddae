"""Whether a process still runs. Knows no server."""

import psutil


def is_running(pid: int) -> bool:
    """Whether a process has not ended. A zombie has: its parent has only not asked about it yet."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # it is there, and somebody else's
        return True
