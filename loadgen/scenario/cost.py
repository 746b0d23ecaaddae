"""What energy and the device cost, as a person gives it. Knows no run."""

from typing import Annotated

from msgspec import Meta, Struct

Amount = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]


class CostSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What energy and the device cost. What is not given is unknown, and is never guessed."""

    watts: Positive | None = None
    """The mean power of the device while it answers. A measured power counts before it."""
    price_per_kwh: Amount | None = None
    """The price of a kilowatt-hour."""
    device_price: Amount | None = None
    """The price of the device; it needs `lifetime_years` and `utilization`."""
    lifetime_years: Positive | None = None
    """How many years the device is used."""
    utilization: Annotated[float, Meta(gt=0, le=1)] | None = None
    """The share of that time in which it answers requests, above 0 and at most 1."""
    currency: str | None = None
    """The currency of the prices; it is only shown."""
    energy_factor: Positive | None = None
    """The factor of the workshop's formula. The result is shown as `workshop_cost` and decides nothing."""


def cost_mismatch(settings: CostSettings) -> tuple[str, str, str] | None:
    """The key that is wrong, what is wrong, and how to fix it; None if these settings go together."""
    lacking = [name for name in ("lifetime_years", "utilization") if getattr(settings, name) is None]
    if settings.device_price is not None and lacking:
        example = " and ".join(
            {"lifetime_years": "lifetime_years = 4", "utilization": "utilization = 0.1"}[name] for name in lacking
        )
        return "device_price", f"it needs {' and '.join(lacking)}", f"add e.g. {example}"
    if settings.device_price is None and len(lacking) < 2:
        name = "utilization" if settings.utilization is not None else "lifetime_years"
        return name, "it has no meaning without device_price", "add e.g. device_price = 600, or leave it out"
    return None
