"""The pages, and the snippets in them with what their comments say about running them.

A comment right above a snippet is one of

    <!-- file: PATH -->     the snippet is this file of a project
    <!-- in a project -->   the commands are run in a folder that `longshore init` made
    <!-- not run: WHY -->
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

_SNIPPET = re.compile(r"(?:^<!-- ([^\n]+) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Snippet:
    language: str
    text: str
    comment: str

    @property
    def file(self):
        """The file of a project that the snippet is, or ""."""
        return self.comment.removeprefix("file: ") if self.comment.startswith("file: ") else ""

    @property
    def commands(self):
        return [line.removeprefix("$ ") for line in self.text.splitlines() if line.startswith("$ ")]


def snippets(page, *languages):
    found = (Snippet(language, text, comment) for comment, language, text in _SNIPPET.findall(page.read_text()))
    return [each for each in found if each.language in languages and not each.comment.startswith("not run: ")]


def name(page):
    return str(page.relative_to(ROOT))


def pages_with(*languages):
    return [page for page in PAGES if snippets(page, *languages)]
