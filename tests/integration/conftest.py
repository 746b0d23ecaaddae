"""For all integration tests: what they start of loadgen is a fork of a process that has imported it."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.fork_server import ForkServer

_execute_child = subprocess.Popen._execute_child  # type: ignore[attr-defined]


def are_forks_made() -> bool:
    """False under coverage, which each process begins to measure as its interpreter starts."""
    return sys.platform == "linux" and not any(name.startswith("COV") for name in os.environ)


@pytest.fixture(scope="session")
def _fork_server() -> Iterator["ForkServer | None"]:
    if not are_forks_made():
        yield None
        return
    from tests.fork_server import fork_server

    with fork_server() as server:
        yield server


@pytest.fixture(scope="module", autouse=True)
def _forks(_fork_server: "ForkServer | None") -> Iterator[None]:
    if _fork_server is None:
        yield
        return
    from tests.fork_server import forking

    with forking(_fork_server):
        yield


@contextlib.contextmanager
def new_interpreters_only() -> Iterator[None]:
    """What is started meanwhile is a new interpreter, as it is for users."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "_execute_child", _execute_child)
        yield


@pytest.fixture
def new_interpreters() -> Iterator[None]:
    """What the test starts are new interpreters, as they are for users."""
    with new_interpreters_only():
        yield
