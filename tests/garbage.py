"""What pytest holds is kept out of the garbage collections of the tests, because it is so much.

A stage collects garbage before it begins, and freezes what is left until it ends. A process that holds thousands of
tests takes a third of a second of CPU for each such collection; a user's process takes none that matters. So what is
there when all tests are collected is frozen for good, and a stage of a test freezes nothing more. What the stages of a
module leave behind is collected at its end, so that a socket or a file that they left open is still noticed.
"""

import gc


class _Freezing:
    """Takes the place of `gc.freeze` and `gc.unfreeze`: remembers that a stage wanted them, and does nothing."""

    def __init__(self) -> None:
        self.is_asked = False

    def __call__(self) -> None:
        self.is_asked = True


_freezing = _Freezing()


def freeze() -> None:
    """Freeze all that is there, until the process ends."""
    gc.collect()
    gc.freeze()
    for name in ("freeze", "unfreeze"):
        setattr(gc, name, _freezing)


def collect() -> None:
    """Collect what the stages since the last time have left."""
    if _freezing.is_asked:
        _freezing.is_asked = False
        gc.collect()
