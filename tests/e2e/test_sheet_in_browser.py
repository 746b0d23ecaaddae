"""A sheet is filled in and saved in a browser, and its notes come back."""

from pathlib import Path

import pytest

from loadgen.decisions.candidates.runs import read_runs
from loadgen.decisions.grade.sheet import Sheet, sheet_of
from loadgen.decisions.grade.sheet_files import read_sheet, sheet_page
from tests.e2e.browser import Browser
from tests.selected_runs import SelectedModel, write_run

pytestmark = pytest.mark.e2e

AT = "2026-01-02T03:04:05.000+00:00"
FILL_IN = """
document.getElementById('by').value = 'ana';
[...document.querySelectorAll('fieldset')].forEach((field, at) => {
  if (at % 5) field.querySelectorAll('input')[at % 5].click();
});
document.querySelector('input[data-comment]').value = 'a “fine” one, =1+1';
document.getElementById('state').textContent
"""
SAVE = "document.getElementById('save').click()"


@pytest.fixture
def sheet(tmp_path: Path) -> Sheet:
    models = (SelectedModel(name="a", points=(4, 3)), SelectedModel(name="b", points=(1, 2)))
    return sheet_of(read_runs([write_run(tmp_path / "run", models)]), 2)


def test_a_sheet_that_is_filled_in_in_a_browser_comes_back(browser: Browser, sheet: Sheet, tmp_path: Path) -> None:
    path = tmp_path / "sheet.html"
    path.write_text(sheet_page(sheet, ""), "utf-8")
    with browser.page(tmp_path) as page:
        page.ask("Page.navigate", url=path.as_uri())
        page.wait_for("Page.loadEventFired")
        assert page.value_of(FILL_IN).endswith(f" of {len(sheet.answers)} graded")
        page.value_of(SAVE)
        browser.wait_for(lambda event: event["params"].get("state") == "completed")

    notes = read_sheet(tmp_path / "notes-ana.json", sheet, None, AT)
    places = [(answer.answer, aspect) for answer in sheet.order_for("") for aspect in sheet.aspects]
    assert {(each.answer, each.aspect): each.note for each in notes} == {
        place: at % 5 + 1 for at, place in enumerate(places) if at % 5
    }
    assert {each.by for each in notes} == {"ana"}
    assert {each.reason for each in notes if each.answer == places[0][0]} == {"a “fine” one, =1+1"}
