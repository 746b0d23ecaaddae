"""The report as one page that needs no network: draws a document, and decides nothing of what is in it. Pure.

The page carries its style sheet, its script and plotly.js; a content policy with the digests of the scripts lets
nothing else run, and nothing be fetched. `page.html` is its template, in which the template engine escapes every text.
"""

import base64
import hashlib
import importlib.util
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from loadgen.redact import printable
from loadgen.report.document import Document
from loadgen.report.section import Chart, PlotlyObject

if TYPE_CHECKING:
    from jinja2 import Template

NOTES_SHOWN: Final = 6
"""Notes under a table; those beyond are folded away."""
MARKS: Final = {"valid": "✓", "degraded": "!", "invalid": "✕", "skipped": "–"}
"""By verdict, so that its color is not needed."""


def html(document: Document) -> str:
    """The whole of `report.html`; equal documents give equal bytes."""
    from markupsafe import Markup

    charts = [chart for section in document.sections for chart in section.charts]
    scripts = _scripts() if charts else []
    return _template().render(
        document=document,
        headline=document.headline,
        policy=_policy(scripts),
        # What is ours, and must stand in the page as it is: the digests are of these very bytes.
        style=Markup(_resource("page.css")),
        scripts=[Markup(script) for script in scripts],
        data=Markup(_chart_data(charts)),
    )


def _template() -> "Template":
    # Here, lest every command pay for the import.
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_without_controls,
    )
    environment.globals.update(NOTES_SHOWN=NOTES_SHOWN, MARKS=MARKS, verdict_of=_verdict_of)
    return environment.from_string(_resource("page.html"))


def _without_controls(value: object) -> object:
    """Text whose control characters cannot be seen does not reach the page; markup is ours, and stays."""
    return printable(value) if type(value) is str else value


def _verdict_of(cell: str) -> str:
    """The verdict that a cell begins with; it may go on after a comma."""
    word = cell.partition(",")[0]
    return word if word in MARKS else "skipped"


def _scripts() -> list[str]:
    return [_plotly_script(), _resource("page.js")]


def _plotly_script() -> str:
    """plotly.js as it lies in the package: all that we want of plotly, whose Python takes a while to import."""
    package = importlib.util.find_spec("plotly")
    assert package is not None and package.submodule_search_locations
    return (Path(package.submodule_search_locations[0]) / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def _policy(scripts: Sequence[str]) -> str:
    """Our own scripts and nothing else. plotly.js sets styles in place, and makes pictures of charts as data."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    rules = ("default-src 'none'", f"script-src {allowed}", "style-src 'unsafe-inline'", "img-src data: blob:")
    return "; ".join((*rules, "base-uri 'none'", "form-action 'none'"))


def _resource(name: str) -> str:
    return (resources.files("loadgen.report") / name).read_text(encoding="utf-8")


def _chart_data(charts: Sequence[Chart]) -> str:
    """The charts as JSON that cannot end the element that it stands in."""
    data: list[PlotlyObject] = [
        {"id": chart.id, "height": chart.height, "traces": chart.traces, "layout": chart.layout} for chart in charts
    ]
    return orjson.dumps(data, option=orjson.OPT_SORT_KEYS).decode().replace("<", "\\u003c")
