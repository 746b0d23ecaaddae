"""The report as one page that needs no network: draws a document, and decides nothing of what is in it. Pure.

The page carries its style sheet, its script and plotly.js; a content policy with the digests of the scripts lets
nothing else run, and nothing be fetched. `page.html` is its template, which `loadgen.report.page_template` makes ready.
"""

import base64
import hashlib
import importlib.util
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import orjson

from loadgen.report.document import Document
from loadgen.report.section import Chart, PlotlyObject


def html(document: Document) -> bytes:
    """The whole of `report.html`; equal documents give equal bytes."""
    # Here, lest every command pay for the import of the template engine.
    from markupsafe import Markup

    from loadgen.report.page_template import page_template

    charts = [chart for section in document.sections for chart in section.charts]
    scripts = {f"\0{at}\0": script for at, script in enumerate(_scripts() if charts else [])}
    page = (
        page_template()
        .render(
            document=document,
            headline=document.headline,
            policy=_policy(list(scripts.values())),
            # What is ours, and must stand in the page as it is: the digests are of these very bytes.
            style=Markup(_resource("page.css")),
            scripts=[Markup(mark) for mark in scripts],
            data=Markup(_chart_data(charts)),
        )
        .encode()
    )
    # plotly.js has millions of bytes, which the template need not see. No text can hold a mark: it has no such signs.
    for mark, script in scripts.items():
        page = page.replace(mark.encode(), script)
    return page


def _scripts() -> list[bytes]:
    return [_plotly_script(), _resource("page.js").encode()]


def _plotly_script() -> bytes:
    """plotly.js as it lies in the package: all that we want of plotly, whose Python takes a while to import."""
    package = importlib.util.find_spec("plotly")
    assert package is not None and package.submodule_search_locations
    return (Path(package.submodule_search_locations[0]) / "package_data" / "plotly.min.js").read_bytes()


def _policy(scripts: Sequence[bytes]) -> str:
    """Our own scripts and nothing else. plotly.js sets styles in place, and makes pictures of charts as data."""
    digests = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts]
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
