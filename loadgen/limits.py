"""What the system grants this process: cores, and open files, whose limit is raised before a plan needs it."""

import contextlib
import os
import sys

from loadgen.staffing import Descriptors, raised


def usable_cores() -> int:
    """Cores that this process may run on."""
    granted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return granted or 1


def provide(needs: Descriptors) -> None:
    """Raise the soft limit towards the hard one as far as is needed; processes that are started later inherit it.

    Raises InputError when the hard limit is too low. Where the system has no such limit (Windows), does nothing.
    """
    if sys.platform == "win32":
        return
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (1 << 62 if limit == resource.RLIM_INFINITY else limit for limit in limits)
    wanted = raised(needs, soft, hard)
    if wanted > soft:
        # macOS names no hard limit and yet refuses what is above a limit of its kernel: then what is required must do.
        for limit in (wanted, needs.required):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limits[1]))
                return
        raised(needs, soft, soft)
