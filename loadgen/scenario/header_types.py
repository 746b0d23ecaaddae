"""Headers of a person's own, as a scenario has them."""

from typing import Annotated

from msgspec import Meta, Struct


class HeaderFromEnvironment(Struct, frozen=True, forbid_unknown_fields=True):
    """The value of a header that a variable of the environment holds. It is a secret: sent, and never written."""

    env: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z", description="The name of a variable.")]
    """The variable."""
    prefix: str = ""
    """What stands before it in the header."""


Headers = dict[str, str | HeaderFromEnvironment]
"""By name."""
