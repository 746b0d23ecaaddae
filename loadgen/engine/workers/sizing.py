"""How many processes play a plan, and how many files each of them must be able to open. Knows no process and no
socket."""

import contextlib
import sys
from typing import Final, Literal

from msgspec import Struct

from loadgen.errors import InputError
from loadgen.plan.plan import Plan, parts
from loadgen.scenario import PYTHON_PREFIX

STREAMS_PER_WORKER: Final = 500
"""How many concurrent streams one process gets on a machine that was not calibrated. At 20 tokens a second each, these
are 10,000 token events a second."""
RESERVED_DESCRIPTORS: Final = 256
"""File descriptors that a process gets beside its streams: logs, pipes, the event loop, connections that are
closing."""
LEAST_DESCRIPTORS: Final = 64
"""The fewest with which it works: five times what a run of one stream has open beside it."""
DESCRIPTORS_PER_WORKER: Final = 4
"""What the process that starts a worker has open for it: its pipes and its log."""

Workers = int | Literal["auto"]


def parse_workers(text: str) -> Workers:
    """The value of `--workers`: a whole number from 1 to 1024, or "auto". Raises InputError."""
    if text == "auto":
        return "auto"
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= 1024:
        raise InputError(f"--workers: {text!r} is not a number of processes; give 1 to 1024, or auto")
    return int(text)


def worker_count(plan: Plan, workers: Workers, cores: int, streams_per_worker: int = STREAMS_PER_WORKER) -> int:
    """How many processes play a plan.

    "auto" takes one process for every `streams_per_worker` concurrent streams of the plan's highest level (its users,
    or max_in_flight), and no more than there are cores: 1 up to 500 streams, 2 up to 1,000. An open loop without a
    limit counts as no streams, because nobody knows how many it will have. A model in this process allows only this
    process. Never are there more processes than some stage can be divided among.

    Raises InputError if a number above 1 was asked for and a model is in this process.
    """
    # Other processes cannot reach a model in this process; every process can reach a URL.
    inside = next((model for model in plan.models if (model.target or "").startswith(PYTHON_PREFIX)), None)
    if workers == "auto":
        highest = max((stage.streams or 0 for stage in plan.stages), default=0)
        return 1 if inside else max(1, min(cores, -(-highest // streams_per_worker)))
    if inside and workers > 1:
        where = f"{inside.name} is asked in this process ({inside.target})"
        raise InputError(f"--workers {workers}: {where}, which no other one shares; leave --workers out")
    return min(workers, max(len(parts(stage, workers)) for stage in plan.stages))


class Descriptors(Struct, frozen=True):
    """File descriptors that the busiest process of a plan needs."""

    streams: int
    """How many streams `required` allows for."""
    required: int
    """The plan cannot be played with fewer."""
    wished: int
    """How many an open loop without a limit may need at most."""


def descriptors_of(plan: Plan, workers: int) -> Descriptors:
    """How many files each process must be able to open, if `workers` processes play the plan."""
    # One stage is played at a time, so a process needs what the largest part of any stage needs.
    shares = [part for stage in plan.stages for part in parts(stage, workers)[:1]]  # the first has the largest share
    known = max((part.streams or 0 for part in shares), default=0)
    possible = max((part.count or 0 for part in shares if part.streams is None), default=0)
    pipes = DESCRIPTORS_PER_WORKER * workers if workers > 1 else 0
    return Descriptors(known, max(known, pipes) + LEAST_DESCRIPTORS, max(known, possible, pipes) + RESERVED_DESCRIPTORS)


def soft_limit_for(needs: Descriptors, soft: int, hard: int) -> int:
    """The soft limit on open files with which to play a plan; never less than the present one. Raises InputError if the
    hard limit is too low for what the plan requires."""
    if needs.required > hard:
        limit = f"{needs.required:,} open files, and the system's hard limit is {hard:,}; raise it (ulimit -Hn)"
        if needs.required > needs.streams + LEAST_DESCRIPTORS:
            raise InputError(f"the process that starts the workers needs {limit}, or start fewer (--workers)")
        who = (
            "1 stream in one process needs" if needs.streams == 1 else f"{needs.streams:,} streams in one process need"
        )
        hint = "divide the streams (--workers), or lower load.concurrency or load.max_in_flight"
        raise InputError(f"{who} {limit}, {hint}")
    return max(soft, min(hard, needs.wished))


def allow_open_files(needs: Descriptors) -> None:
    """Raise the soft limit on open files as far as the plan needs. Processes that are started later inherit it.

    Raises InputError if the hard limit is too low. Does nothing on Windows, which has no such limit.
    """
    if sys.platform == "win32":
        return
    import resource

    # Raised here and not by each worker: a process inherits the limit of the one that starts it.
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (1 << 62 if limit == resource.RLIM_INFINITY else limit for limit in limits)
    wanted = soft_limit_for(needs, soft, hard)
    if wanted > soft:
        # macOS reports no hard limit, yet refuses a soft limit above that of its kernel. Then `required` has to
        # suffice.
        for limit in (wanted, needs.required):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limits[1]))
                return
        soft_limit_for(needs, soft, soft)


def prepare_workers(plan: Plan, workers: int) -> int:
    """How many processes can play a plan, at most `workers`. Raises this process's limit on open files as far as they
    need, and InputError if that is not possible."""
    workers = worker_count(plan, workers, cores=workers)
    # Before the folder is made, so that a plan for which this machine has too few files leaves nothing behind; and
    # before workers are started, which inherit the limit.
    allow_open_files(descriptors_of(plan, workers))
    return workers
