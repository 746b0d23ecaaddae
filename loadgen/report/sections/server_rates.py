"""Prefill and decode rates by the server's clock and by ours, for the same work. Pure."""

from typing import Final

from msgspec import UNSET

from loadgen.report.format import format_number
from loadgen.report.section import Column, ReportData, Row, Section, Table, stage_name

KEYS: Final = ("server_prefill", "client_prefill", "server_decode", "client_decode")
COLUMNS: Final = (
    Column("stage", "text"),
    Column("prefill tok/s: server"),
    Column("ours"),
    Column("decode tok/s: server"),
    Column("ours"),
)
NOTE: Final = (
    "Our rates come from stamps: prompt tokens / service TTFT (with the wait for a free slot), and tokens / gaps."
)


def server_rates(data: ReportData) -> Section | None:
    """None if no server sent timings."""
    rows = []
    for stage in data.summary.stages:
        if stage.server is not None and stage.server.rates is not UNSET:
            rates = (getattr(stage.server.rates, f"{key}_tokens_per_s") for key in KEYS)
            rows.append(Row((stage_name(stage), *map(format_number, rates))))
    if not rows:
        return None
    table = Table(COLUMNS, tuple(rows), remarks=(NOTE,))
    return Section(title="The server's own timings", anchor="server-rates", tables=(table,))
