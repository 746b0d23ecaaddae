"""Model cards as a table for a terminal. Pure."""

from collections.abc import Sequence

from loadgen.report.console import table_text
from loadgen.report.format import UNKNOWN, format_bytes
from loadgen.report.section import Column, Row, Table
from loadgen.report.sections.server_behavior import server_table
from loadgen.report.text_table import Screen
from loadgen.store.manifest import ModelCard, ServedModel

_HEADS = ("model", "served by", "id", "size", "context", "device", "license", "publisher", "capabilities", "here")
_NUMBERS = ("size", "context")


def cards_text(cards: Sequence[ModelCard], screen: Screen) -> str:
    """One row per card. Columns in which nothing is known are left out."""
    rows = [_row(card) for card in cards]
    keep = [i for i in range(len(_HEADS)) if any(row[i] != UNKNOWN for row in rows)]
    table = Table(
        columns=tuple(Column(_HEADS[i], "number" if _HEADS[i] in _NUMBERS else "text") for i in keep),
        rows=tuple(Row(tuple(row[i] for i in keep)) for row in rows),
    )
    return table_text(table, "models", screen)


def behavior_text(cards: Sequence[ServedModel], screen: Screen) -> str:
    """The findings about the servers of model cards: one finding per row, one model per column."""
    table = server_table(cards)
    return "" if table is None else table_text(table, "servers", screen)


def _row(card: ModelCard) -> tuple[str, ...]:
    here = None if card.cached is None else "yes" if card.cached else "no"
    size = None if card.size_bytes is None else format_bytes(card.size_bytes)
    context = None if card.context_tokens is None else str(card.context_tokens)
    device = " ".join(word for word in (card.device, card.execution_provider) if word)
    known = (card.alias, card.target, card.id, size, context, device, card.license, card.publisher)
    return tuple(cell or UNKNOWN for cell in (*known, card.capabilities or card.task, here))
