"""The pages, and the snippets in them with what their comments say about running them.

A comment right above a snippet is one of

    <!-- file: PATH -->     the snippet is this file of a project
    <!-- in a project -->   the commands are run in a folder that `longshore init` made
    <!-- with docker -->    `make compose-test` runs the commands, no other test does
    <!-- not run: WHY -->
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

_NOT_HERE = ("not run: ", "with docker")
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
    return [each for each in _all(page) if each.language in languages and not each.comment.startswith(_NOT_HERE)]


def commands_with_docker(page):
    return [command for each in _all(page) if each.comment == "with docker" for command in each.commands]


def _all(page):
    return [Snippet(language, text, comment) for comment, language, text in _SNIPPET.findall(page.read_text())]


def name(page):
    return str(page.relative_to(ROOT))


def pages_with(*languages):
    return [page for page in PAGES if snippets(page, *languages)]
