"""How a process of our own imports what it needs as it starts: without what only costs time there.

aiohttp makes two TLS contexts when it is imported, and each reads every certificate that the system trusts: a sixth
of what it takes to import it, and most runs speak to a server of this machine without TLS.
"""

import contextlib
import gc
import ssl
from collections.abc import Iterator
from typing import Any


class LateCertificates(ssl.SSLContext):
    """A TLS context that reads the certificates of the system when a connection first needs them."""

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        self._read_certificates()
        return self.wrap_bio(*arguments, **named)

    def wrap_socket(self, *arguments: Any, **named: Any) -> ssl.SSLSocket:
        self._read_certificates()
        return self.wrap_socket(*arguments, **named)

    def _read_certificates(self) -> None:
        self.__class__ = ssl.SSLContext  # type: ignore[assignment]
        self.load_default_certs()


@contextlib.contextmanager
def fast_imports() -> Iterator[None]:
    """What is imported meanwhile is not searched for garbage, of which there is none, and its TLS contexts read the
    system's certificates when they first connect.

    For a process of our own alone: the contexts of a program that imports us are not touched. Until the certificates
    are read a context trusts nobody, so a way past `LateCertificates` would be an error and no hole.
    """

    def postpone(context: ssl.SSLContext, *_: object) -> None:
        if type(context) is ssl.SSLContext:
            context.__class__ = LateCertificates

    load_default_certs = ssl.SSLContext.load_default_certs
    ssl.SSLContext.load_default_certs = postpone  # type: ignore[method-assign, assignment]
    ssl.SSLContext.set_default_verify_paths = postpone  # type: ignore[method-assign, assignment]
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        ssl.SSLContext.load_default_certs = load_default_certs  # type: ignore[method-assign]
        del ssl.SSLContext.set_default_verify_paths  # ours, which hid the one that the class inherits
