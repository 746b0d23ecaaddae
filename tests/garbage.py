"""What pytest holds is kept out of the garbage collections of the tests, because it is so much.

A stage collects garbage before it begins, and freezes what is left until it ends. A process that holds thousands of
tests takes half a second of CPU for each such collection; a user's process takes none that matters. So what is there
when all tests are collected is frozen, and stays so. What the tests of a module leave behind is collected at the end of
the module, so that a socket or a file that they left open is still noticed.
"""

import gc
from typing import Final

unfreeze: Final = gc.unfreeze
"""What `gc.unfreeze` is to everybody but the tests."""


class _Frozen:
    """Takes the place of `gc.unfreeze`: remembers that a stage wanted it, and does nothing."""

    def __init__(self) -> None:
        self.is_asked = False

    def __call__(self) -> None:
        self.is_asked = True


_frozen: Final = _Frozen()


def freeze() -> None:
    """Freeze all that is there, until the process ends."""
    gc.collect()
    gc.freeze()
    setattr(gc, "unfreeze", _frozen)  # noqa: B010  it is a function to mypy


def collect() -> None:
    """Collect what the stages since the last time have frozen, too."""
    if _frozen.is_asked:
        _frozen.is_asked = False
        unfreeze()
        freeze()
