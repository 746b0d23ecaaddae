"""What pytest holds is kept out of the garbage collections of the tests, because it is so much.

A stage collects garbage before it begins, and freezes what is left until it ends. A process that holds thousands of
tests takes a third of a second of CPU for each such collection, and a soak collects in each of its windows; a user's
process takes none that matters. So what is there when all tests are collected is frozen for good, and a stage of a test
freezes nothing more. What the tests of a module leave behind is collected at its end, so that a socket or a file that
they left open is still noticed; what is left then, such as imported modules, is frozen too.
"""

import gc

_freeze = gc.freeze


def begin() -> None:
    """Freeze all that is there, until the process ends."""
    collect()
    for name in ("freeze", "unfreeze"):
        setattr(gc, name, lambda: None)


def collect() -> None:
    """Collect what was left since the last time, and freeze what is still there."""
    gc.collect()
    _freeze()
