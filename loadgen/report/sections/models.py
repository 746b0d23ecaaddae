"""The known facts about each model that was served, as a table with one row per model. Pure."""

from typing import Final

from msgspec import UNSET

from loadgen.report.format import UNKNOWN, format_bytes
from loadgen.report.section import Column, ReportData, Row, Section, Table
from loadgen.store.manifest import ServedModel

ALWAYS: Final = ("model", "served by", "id")


def models(data: ReportData) -> Section:
    """Columns in which nothing is known are left out."""
    described = [_describe(card) for card in data.manifest.models]
    if not described:
        return Section(title="Models", anchor="models", paragraphs=("No model was served.",))
    titles = [title for title in described[0] if title in ALWAYS or any(cells[title] != UNKNOWN for cells in described)]
    table = Table(
        columns=tuple(Column(title, "text") for title in titles),
        rows=tuple(Row(tuple(cells[title] for title in titles)) for cells in described),
    )
    return Section(title="Models", anchor="models", tables=(table,))


def _describe(card: ServedModel) -> dict[str, str]:
    """The cells of a model's card, by heading."""
    settings = {} if card.settings is UNSET else card.settings
    return {
        "model": card.alias,
        "served by": card.target,
        "id": card.id,
        "size": format_bytes(card.size_bytes),
        "parameters": UNKNOWN if card.parameters is None else f"{card.parameters / 1e6:.0f} M",
        "quantization": card.quantization or UNKNOWN,
        "device": card.device or UNKNOWN,
        "execution provider": card.execution_provider or UNKNOWN,
        "context": f"{card.context_tokens} tokens" if card.context_tokens else UNKNOWN,
        "license": card.license or UNKNOWN,
        "publisher": card.publisher or UNKNOWN,
        "listed by its server": "no" if card.listed is False else UNKNOWN,
        "start": UNKNOWN if card.startup_s is None else f"{card.startup_s:.1f} s",
        "left out of requests": _describe_refused(card),
        "settings": ", ".join(f"{name} {value}" for name, value in settings.items()) or UNKNOWN,
    }


def _describe_refused(card: ServedModel) -> str:
    """The keys that the server refused in the test chat."""
    refused = {} if card.refused_keys is UNSET else card.refused_keys
    return ", ".join(key if other is None else f"{key} (sent as {other})" for key, other in refused.items()) or UNKNOWN
