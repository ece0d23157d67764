"""Write the tables of results/ between their markers in README.md and docs/; `make figures` does it.

A marker names a file and how the part of it that is wanted begins, and ends with <!-- end -->:

    <!-- results/precision.md: | test accuracy -->

python docs/tables.py
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARKED = re.compile(r"(<!-- (results/\S+): (.+?) -->\n).*?(<!-- end -->)", re.S)


def insert_tables(text):
    """Return a Markdown text with what its markers name between them. Raises: StopIteration, there is no such part."""

    def replace(match):
        opening, name, beginning, closing = match.groups()
        parts = (ROOT / name).read_text(encoding="utf-8").rstrip("\n").split("\n\n")
        return f"{opening}{next(part for part in parts if part.startswith(beginning))}\n{closing}"

    return MARKED.sub(replace, text)


def pages():
    """Return the paths of README.md and the pages behind it."""
    return [ROOT / "README.md", ROOT / "results" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


if __name__ == "__main__":
    for page in pages():
        page.write_text(insert_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
