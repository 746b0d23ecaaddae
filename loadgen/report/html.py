"""The report as one HTML page that needs no network. Draws a document and does not choose its contents. Pure.

The page contains its style sheet, its script and plotly.js. A content security policy with the digests of the scripts
prevents any other script from running, and any request. The template is `page.html`, which
`loadgen.report.page_template` compiles.
"""

import base64
import hashlib
import importlib.util
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final

import orjson

from loadgen.report.document import Document
from loadgen.report.section import Chart, PlotlyObject

_MARK: Final = "\0"
"""Where the template leaves room for a script. No text can hold it: it has no such signs."""


def html(document: Document) -> bytes:
    """The contents of `report.html`; equal documents give equal bytes."""
    # Imported here, so that no other command pays for the import of the template engine.
    from markupsafe import Markup

    from loadgen.report.page_template import page_template

    charts = [chart for section in document.sections for chart in section.charts]
    scripts = _scripts() if charts else ()
    page = (
        page_template()
        .render(
            document=document,
            headline=document.headline,
            policy=_policy(scripts),
            # What is ours, and must stand in the page as it is: the digests are of these very bytes.
            style=Markup(_resource("page.css")),
            scripts=[Markup(_MARK)] * len(scripts),
            data=Markup(_chart_data(charts)),
        )
        .encode()
    )
    # plotly.js has millions of bytes, which the template need not see, and which are copied once.
    parts = page.split(_MARK.encode())
    return b"".join(part for pair in zip(parts, (*scripts, b""), strict=True) for part in pair)


@cache
def _scripts() -> tuple[bytes, ...]:
    return _plotly_script(), _resource("page.js").encode()


def _plotly_script() -> bytes:
    """plotly.js as a file of the package. Only this file is needed, and importing plotly itself would be slow."""
    package = importlib.util.find_spec("plotly")
    assert package is not None and package.submodule_search_locations
    return (Path(package.submodule_search_locations[0]) / "package_data" / "plotly.min.js").read_bytes()


@cache
def _policy(scripts: tuple[bytes, ...]) -> str:
    """A policy that allows only our own scripts. plotly.js needs inline styles, and images from data URLs."""
    digests = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    rules = ("default-src 'none'", f"script-src {allowed}", "style-src 'unsafe-inline'", "img-src data: blob:")
    return "; ".join((*rules, "base-uri 'none'", "form-action 'none'"))


def _resource(name: str) -> str:
    return (resources.files("loadgen.report") / name).read_text(encoding="utf-8")


def _chart_data(charts: Sequence[Chart]) -> str:
    """The charts as JSON that cannot end the HTML element that contains it."""
    data: list[PlotlyObject] = [
        {"id": chart.id, "height": chart.height, "traces": chart.traces, "layout": chart.layout} for chart in charts
    ]
    return orjson.dumps(data, option=orjson.OPT_SORT_KEYS).decode().replace("<", "\\u003c")
