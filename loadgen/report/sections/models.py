"""What is known of each model that was served, as a table: a model a row. Pure."""

from typing import Any, Final

from loadgen.report.format import UNKNOWN, format_bytes
from loadgen.report.section import Column, ReportData, Row, Section, Table

ALWAYS: Final = ("model", "served by", "id")


def models(data: ReportData) -> Section:
    """A column in which nothing is known is left out."""
    described = [_describe(card) for card in data.manifest.models]
    if not described:
        return Section(title="Models", anchor="models", paragraphs=("No model was served.",))
    titles = [title for title in described[0] if title in ALWAYS or any(cells[title] != UNKNOWN for cells in described)]
    table = Table(
        columns=tuple(Column(title, "text") for title in titles),
        rows=tuple(Row(tuple(cells[title] for title in titles)) for cells in described),
    )
    return Section(title="Models", anchor="models", tables=(table,))


def _describe(card: dict[str, Any]) -> dict[str, str]:
    """What a model's card says, by heading."""
    parameters, startup_s = card.get("parameters"), card.get("startup_s")
    settings = ", ".join(f"{name} {value}" for name, value in (card.get("settings") or {}).items())
    context = card.get("context_tokens")
    return {
        "model": card["alias"],
        "served by": card["target"],
        "id": card["id"],
        "size": format_bytes(card.get("size_bytes")),
        "parameters": UNKNOWN if parameters is None else f"{parameters / 1e6:.0f} M",
        "quantization": card.get("quantization") or UNKNOWN,
        "device": card.get("device") or UNKNOWN,
        "context": f"{context} tokens" if context else UNKNOWN,
        "license": card.get("license") or UNKNOWN,
        "publisher": card.get("publisher") or UNKNOWN,
        "start": UNKNOWN if startup_s is None else f"{startup_s:.1f} s",
        "settings": settings or UNKNOWN,
    }
