"""What the targets offer: the card of each model that could be played. Asks, and measures nothing."""

import contextlib
from collections.abc import Sequence

import msgspec

from loadgen.errors import InputError, TargetError
from loadgen.scenario import FoundryLocal, LlamaCpp, Model
from loadgen.scenario.model_list import ListedModel, split_words
from loadgen.targets.foundry.target import TARGET as FOUNDRY
from loadgen.targets.foundry.target import endpoint_of, foundry_models, sdk_major
from loadgen.targets.llamacpp.target import TARGET as LLAMACPP
from loadgen.targets.llamacpp.target import file_card, weights
from loadgen.targets.openai import authorization, card_of, models_of
from loadgen.targets.registry import target_name
from loadgen.targets.served import ModelCard, Tell

SMALL = Model(name="smollm2-135m", target=LLAMACPP)


async def offered(models: Sequence[Model], tell: Tell) -> tuple[list[ModelCard], list[str]]:
    """The cards of all models that these models' targets offer, each target asked once; and a line for each that
    could not be asked. Raises InputError when the environment's key cannot be had."""
    if any(model.url is not None for model in models):
        authorization()
    cards: list[ModelCard] = []
    problems: list[str] = []
    asked: list[tuple[str, str | None, FoundryLocal | None]] = []
    for model in models:
        place = (target_name(model), model.url, model.foundry)
        if place in asked and model.target != LLAMACPP:
            continue
        asked.append(place)
        try:
            cards += await _offered_by(model, tell)
        except (TargetError, InputError) as error:
            problems.append(f"{target_name(model)}: {error}")
    return cards, problems


def usual_places() -> list[Model]:
    """Where to ask when nobody says: Foundry Local, where it runs or is installed, and the embedded server."""
    found = [SMALL]
    with contextlib.suppress(InputError):
        if endpoint_of(FoundryLocal()) is None and sdk_major() is None:
            return found
    return [Model(name="any", target=FOUNDRY), *found]


async def _offered_by(model: Model, tell: Tell) -> list[ModelCard]:
    target = target_name(model)
    if model.url is not None:
        url = model.url.rstrip("/")
        told = await models_of(url, authorization())
        if not told:
            raise TargetError(f"{url}/models does not list any model", remedy="is the server running there?")
        return [card_of(str(entry.get("id")), target, entry) for entry in told]
    if model.target == FOUNDRY:
        tell("asking Foundry Local", None)
        return await foundry_models(model.foundry or FoundryLocal(), tell)
    if model.target == LLAMACPP:
        return [_embedded(model)]
    raise TargetError("an adapter does not list what it offers")


def _embedded(model: Model) -> ModelCard:
    options = model.llamacpp or LlamaCpp()
    path = weights(options)
    return msgspec.structs.replace(file_card(model.name, path), context_tokens=options.context_tokens)


def listed(cards: Sequence[ModelCard]) -> tuple[ListedModel, ...]:
    """The cards as `models.json` has them; of two with the same alias, the first."""
    found: dict[str, ListedModel] = {}
    for card in cards:
        more = {
            name: value
            for name in ModelCard.__struct_fields__
            if name not in {"alias", "capabilities", "size_bytes"} and (value := getattr(card, name)) is not None
        }
        size = None if card.size_bytes is None else round(card.size_bytes / 2**20, 1)
        words = split_words(card.capabilities or "")
        found.setdefault(card.alias, ListedModel(card.alias, words, size, more))
    return tuple(found.values())
