"""Lists the models that the targets can serve, as cards. Measures nothing."""

import contextlib
from collections.abc import Callable, Sequence

import msgspec

from loadgen.clock import SYSTEM_CLOCK, Clock
from loadgen.errors import InputError, TargetError
from loadgen.scenario import FoundryLocal, LlamaCpp, Model
from loadgen.scenario.model_list import ListedModel, split_words
from loadgen.scenario.urls import base_url
from loadgen.store.manifest import ModelCard
from loadgen.targets.diagnosis import models_error
from loadgen.targets.foundry.target import TARGET as FOUNDRY
from loadgen.targets.foundry.target import endpoint_of, list_foundry_cards, sdk_major
from loadgen.targets.llamacpp.target import TARGET as LLAMACPP
from loadgen.targets.llamacpp.target import card_of_file, weights_path
from loadgen.targets.openai import ask_models, card_of, headers_of
from loadgen.targets.ready import ReadyWait, wait_until_answered
from loadgen.targets.registry import running_address, target_name
from loadgen.targets.served import OnProgress

SMALL_MODEL = Model(name="smollm2-135m", target=LLAMACPP)


async def list_cards(
    models: Sequence[Model],
    on_progress: OnProgress,
    *,
    ready_s: float = 0.0,
    tell: Callable[[str], None] = lambda _: None,
    clock: Clock = SYSTEM_CLOCK,
) -> tuple[list[ModelCard], list[str]]:
    """The cards of all models that these models' targets offer, and a line for each target that could not be asked.
    Each target is asked once. Raises InputError if the API key in the environment cannot be read.

    ready_s: how long to wait for a running server that is not ready. tell: called with a line about that.
    """
    for model in models:
        headers_of(model)
    cards: list[ModelCard] = []
    problems: list[str] = []
    endpoints: list[tuple[str, str | None, FoundryLocal | None]] = []
    for model in models:
        endpoint = (target_name(model), model.url, model.foundry)
        if endpoint in endpoints and model.target != LLAMACPP:
            continue
        endpoints.append(endpoint)
        try:
            address = running_address(model)
            if address is not None:
                await wait_until_answered(
                    address, headers_of(model), ReadyWait(clock, ready_s, target_name(model), tell)
                )
            cards += await _cards_of_target(model, on_progress)
        except (TargetError, InputError) as error:
            problems.append(f"{target_name(model)}: {error}")
    return cards, problems


def default_models() -> list[Model]:
    """Models whose targets are asked if the user names none: Foundry Local, if it is running or installed, and the
    embedded server."""
    with contextlib.suppress(InputError):
        if endpoint_of(FoundryLocal()) is None and sdk_major() is None:
            return [SMALL_MODEL]
    return [Model(name="any", target=FOUNDRY), SMALL_MODEL]


async def _cards_of_target(model: Model, on_progress: OnProgress) -> list[ModelCard]:
    target = target_name(model)
    if model.url is not None:
        base, headers = base_url(model.url), headers_of(model)
        listed = await ask_models(base, headers)
        if not listed.entries:
            raise await models_error(base, headers, listed)
        return [card_of(str(entry.get("id")), target, entry) for entry in listed.entries]
    if model.target == FOUNDRY:
        on_progress("asking Foundry Local", None)
        return await list_foundry_cards(model.foundry or FoundryLocal(), on_progress)
    if model.target == LLAMACPP:
        return [_embedded_card(model)]
    raise TargetError("an adapter does not list what it offers")


def _embedded_card(model: Model) -> ModelCard:
    options = model.llamacpp or LlamaCpp()
    card = card_of_file(model.name, weights_path(options))
    return msgspec.structs.replace(card, context_tokens=options.context_tokens)


def model_list_of(cards: Sequence[ModelCard]) -> tuple[ListedModel, ...]:
    """The cards in the form of `models.json`; only the first of two with the same alias."""
    models: dict[str, ListedModel] = {}
    for card in cards:
        more = {
            name: value
            for name, value in msgspec.to_builtins(card).items()
            if name not in {"alias", "capabilities", "size_bytes"} and value is not None
        }
        size_mib = None if card.size_bytes is None else round(card.size_bytes / 2**20, 1)
        capabilities = split_words(card.capabilities or "")
        models.setdefault(card.alias, ListedModel(card.alias, capabilities, size_mib, more))
    return tuple(models.values())
