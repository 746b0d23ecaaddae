"""Which models a list of names means, given a scenario's own. Raw tables in, raw tables out; knows no file."""

from collections.abc import Sequence
from typing import Any, Final

from loadgen.errors import InputError
from loadgen.scenario.complaint import choices

FOUNDRY: Final = "foundry"
_PLACE: Final = ("target", "url", "foundry")


def models_named(own: Sequence[dict[str, Any]], names: Sequence[str], label: str) -> list[dict[str, Any]]:
    """The models of these names, in their order. label: what gave them, for a complaint.

    A name that the scenario has is that model. Any other is served where the scenario's own are served, when that is
    one place that can serve more than one model: an endpoint, or Foundry Local. Else Foundry Local serves it: a name
    that is only a name cannot stand for the weights of an embedded server.
    """
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise InputError(f"{label}: {choices(twice[:1])} stands there twice; leave one out")
    found: list[dict[str, Any]] = []
    for name in names:
        mine = [model for model in own if model.get("name") == name]
        found += mine or [{"name": name, **_common_place(own)}]
    return found


def _common_place(own: Sequence[dict[str, Any]]) -> dict[str, Any]:
    places = [{key: model[key] for key in _PLACE if model.get(key) is not None} for model in own]
    if not places or any(place != places[0] for place in places):
        return {"target": FOUNDRY}
    place = places[0]
    if place.get("url") is not None:
        return place
    if place.get("target") != FOUNDRY and "foundry" not in place:
        return {"target": FOUNDRY}
    # The embedded model is one model; others come from the catalog.
    options = {key: value for key, value in place.get("foundry", {}).items() if key != "embedded"}
    return {"target": FOUNDRY, **({"foundry": options} if options else {})}
