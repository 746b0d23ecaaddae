"""The types of the user's own headers in a scenario."""

from typing import Annotated

from msgspec import Meta, Struct


class HeaderFromEnvironment(Struct, frozen=True, forbid_unknown_fields=True):
    """The value of a header, held by an environment variable. It is a secret: loadgen sends it but never writes it."""

    env: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z", description="The name of a variable.")]
    """The name of the variable."""
    prefix: str = ""
    """The text before the value in the header."""


Headers = dict[str, str | HeaderFromEnvironment]
"""The headers by name."""
