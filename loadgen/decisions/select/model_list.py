"""`models.json`: the candidates that may be used, in the order of the choice, as a router by capability reads them."""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from loadgen.decisions.select.facts import Facts
from loadgen.scenario.model_list import ListedModel, model_list_text
from loadgen.store.manifest import ModelCard
from loadgen.targets.catalog import model_list_of


class RankedModel(Struct, frozen=True, kw_only=True):
    """One candidate that meets the requirements."""

    card: ModelCard
    facts: Facts
    priority: int
    """Its place in the choice: 1 is the first. A router prefers the lowest."""
    figures: Mapping[str, float | None] = {}
    """What was measured of it, by the name of the key, such as `quality` and `ttft_p50_ms`; None is left out."""


def ranked_model_list(models: Sequence[RankedModel]) -> bytes:
    """The text of `models.json`: alias -> card, by priority. Of two candidates with the same alias, only the better."""
    listed: dict[str, ListedModel] = {}
    for model in sorted(models, key=lambda model: (model.priority, model.card.alias, model.card.target)):
        listed.setdefault(model.card.alias, _listed(model))
    return model_list_text(listed.values())


def _listed(model: RankedModel) -> ListedModel:
    facts = model.facts
    card = ModelCard(**{name: getattr(model.card, name) for name in ModelCard.__struct_fields__})
    known = {
        "license": facts.license.value,
        "context_tokens": facts.context_tokens.value,
        "device": facts.device.value,
        "execution_provider": facts.execution_provider.value,
    }
    (entry,) = model_list_of([msgspec.structs.replace(card, **known)])
    figures = {"memory_mib": facts.memory_mib.value, **model.figures}
    more = {"priority": model.priority, **entry.more}
    more |= {name: round(value, 1) for name, value in figures.items() if value is not None}
    size = facts.disk_mib.value
    return ListedModel(
        alias=entry.alias,
        capabilities=facts.capabilities.value or (),
        size_mb=None if size is None else round(size, 1),
        more=more,
    )
