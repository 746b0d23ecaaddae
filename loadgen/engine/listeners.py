"""Calls whoever wants to know of something, for as long as a context lasts."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Generic, ParamSpec

P = ParamSpec("P")


class Listeners(Generic[P]):
    """Those who are called now."""

    def __init__(self) -> None:
        self._listeners: dict[object, Callable[P, None]] = {}

    @contextlib.contextmanager
    def calling(self, listener: Callable[P, None]) -> Iterator[None]:
        """While the context lasts, call `listener` too."""
        key = object()  # the same listener may be there twice
        self._listeners[key] = listener
        try:
            yield
        finally:
            del self._listeners[key]

    def call(self, *args: P.args, **kwargs: P.kwargs) -> None:
        # A copy, because a listener that ends a wait may remove itself.
        for listener in tuple(self._listeners.values()):
            listener(*args, **kwargs)
