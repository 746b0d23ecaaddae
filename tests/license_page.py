"""docs/licenses.md: the table of licenses, as the program has it. `python -m tests.license_page` writes it anew."""

from pathlib import Path
from typing import Final

from loadgen.targets.licenses import License, licenses

PAGE: Final = Path(__file__).parents[1] / "docs" / "licenses.md"
INTRODUCTION: Final = """# Licenses of models

This table says which licenses of models allow commercial use. `python -m tests.license_page` generates it from
`loadgen/targets/licenses.toml`, and a test fails when it is out of date. **It is a list of facts,
and no legal advice.** Read the license of the model that you choose.

- **yes**: commercial use is allowed, under no other duties than to name the author and to pass on the license.
- **conditions**: commercial use is allowed only under the conditions of the clause, and often under further ones.
  Such a license counts as commercial only if you accept it by its name.
- **no**: commercial use is not allowed.
- **unknown (unverified)**: the text has not been read, so the table says nothing. Nothing here comes from memory.

A license that is not in this table is unknown too. Case and punctuation do not matter in a spelling: `apache-2.0` and
`Apache License, Version 2.0` are the same row, and so are the addresses at which publishers keep a license. For a model
whose license is called `other`, the name or the address that its card gives counts.

| license | commercial use | the clause that decides | where it was read, and when | also spelled |
|---|---|---|---|---|
"""


def page_text() -> str:
    """The page."""
    return INTRODUCTION + "".join(f"| {' | '.join(_cells(row))} |\n" for row in licenses())


def _cells(row: License) -> tuple[str, ...]:
    spellings = ", ".join(f"`{spelling}`" for spelling in row.spellings if "/" not in spelling)
    commercial = f"**{row.commercial}**" if row.is_verified else "unknown (unverified)"
    clause = f"“{row.clause}”" if row.clause else ""
    read = f"{row.source}; {row.read}" if row.is_verified else "not read"
    return f"{row.name} (`{row.id}`)", commercial, clause, read, spellings


if __name__ == "__main__":
    PAGE.write_text(page_text(), encoding="utf-8", newline="\n")
