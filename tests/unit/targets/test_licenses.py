"""The table of licenses: a row has its clause and its source or is unverified, and a spelling leads to one row."""

import re
from datetime import date

import pytest

from loadgen.targets.licenses import License, license_named, license_of, license_text, licenses
from tests.license_page import PAGE, page_text

LICENSES = licenses()
IDS = [row.id for row in LICENSES]


@pytest.mark.parametrize("row", LICENSES, ids=IDS)
def test_a_row_has_clause_source_and_day_or_counts_as_unknown(row: License) -> None:
    texts = (row.clause, row.source, row.read)
    assert all(texts) if row.is_verified else not any(texts)
    assert row.is_verified == (row.commercial != "unknown")
    if row.is_verified:
        assert date.fromisoformat(row.read).year >= 2026
        assert re.match(r"[\w.-]+\.\w+/", row.source), "a source is an address"


def test_the_table_has_the_licenses_of_the_usual_small_models() -> None:
    assert {
        *("MIT", "Apache-2.0", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0"),
        *("CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-NC-ND-4.0"),
        *("llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "gemma"),
        *("qwen", "qwen-research", "tongyi-qianwen", "microsoft-research-license", "mrl", "mnpl"),
        *("openrail", "nvidia-open-model-license", "deepseek"),
    } <= set(IDS)


@pytest.mark.parametrize("row", LICENSES, ids=IDS)
def test_every_spelling_of_a_row_leads_to_it_and_to_no_other(row: License) -> None:
    for spelling in (row.id, row.name, *row.spellings):
        for written in (spelling, spelling.upper(), f" {spelling.replace('-', ' ')} ", f"https://{spelling}"):
            assert license_of(written) is row


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        ("apache-2.0", "Apache-2.0"),
        ("Apache License 2.0", "Apache-2.0"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("Apache 2", "Apache-2.0"),
        ("https://www.apache.org/licenses/LICENSE-2.0", "Apache-2.0"),
        ("mit", "MIT"),
        ("The MIT License", "MIT"),
        ("bsd-3-clause", "BSD-3-Clause"),
        ("cc0-1.0", "CC0-1.0"),
        ("CC BY 4.0", "CC-BY-4.0"),
        ("cc-by-nc-4.0", "CC-BY-NC-4.0"),
        ("llama3.2", "llama3.2"),
        ("Llama 3.2 Community License", "llama3.2"),
        ("LLAMA 3.2 COMMUNITY LICENSE AGREEMENT", "llama3.2"),
        ("META LLAMA 3 COMMUNITY LICENSE AGREEMENT", "llama3"),
        ("Gemma Terms of Use", "gemma"),
        ("qwen-research", "qwen-research"),
        ("Tongyi Qianwen LICENSE AGREEMENT", "tongyi-qianwen"),
        ("https://mistral.ai/licenses/MRL-0.1.md", "mrl"),
    ],
)
def test_the_spellings_of_catalogs_and_model_files_are_known(spelling: str, expected: str) -> None:
    row = license_of(spelling)
    assert row is not None and row.id == expected


@pytest.mark.parametrize(
    "spelling",
    [
        *(None, "", " ", "-", "license", "other", "custom", "proprietary", "许可证"),
        *("Apache", "Apache-1.1", "BSD", "MIT-0", "CC-BY", "cc-by-nc", "llama", "llama4", "llama3.4"),
        *("MIT OR Apache-2.0", "MIT AND BSD-3-Clause", "not MIT", "MIT with Commons Clause"),
    ],
)
def test_any_other_spelling_is_unknown(spelling: str | None) -> None:
    assert license_of(spelling) is None


@pytest.mark.parametrize("row", LICENSES, ids=IDS)
def test_a_license_with_something_added_is_another_license(row: License) -> None:
    for added in ("modified", "OR MIT", "with exceptions", "2"):
        assert license_of(f"{row.id} {added}") is not row
        assert license_of(f"{added} {row.name}") is None


def test_a_license_that_is_called_other_is_the_one_that_is_named_or_linked() -> None:
    assert license_text("other", "qwen-research") == "qwen-research"
    assert license_text("other", None, "https://mistral.ai/licenses/MNPL-0.1.md") == (
        "https://mistral.ai/licenses/MNPL-0.1.md"
    )
    assert license_text(None, "Llama 3.2 Community License") == "Llama 3.2 Community License"
    assert license_text("Other", "acme-eula", "https://acme.example/eula") == "acme-eula"
    assert license_text("other") == "other"
    assert license_text("mit", "qwen-research") == "mit"
    assert license_text(None) is None


def test_a_license_has_its_id_or_its_own_spelling() -> None:
    assert license_named("apache license 2.0") == "Apache-2.0"
    assert license_named("https://mistral.ai/licenses/MNPL-0.1.md") == "mnpl"
    assert license_named("acme-eula") == "acme-eula"
    assert license_named(None) is None


def test_what_nobody_has_read_allows_nothing() -> None:
    phi = license_of("microsoft-research-license")
    assert phi is not None and not phi.is_verified and phi.commercial == "unknown"


def test_the_page_is_the_table_of_the_program() -> None:
    """If it is out of date: `python -m tests.license_page`."""
    assert PAGE.read_text(encoding="utf-8") == page_text()


def test_a_cell_of_the_page_has_no_bar() -> None:
    assert all("|" not in "".join((row.name, row.clause, row.source, *row.spellings)) for row in LICENSES)
