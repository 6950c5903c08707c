"""What the README and docs tell a user to type exists, and its table is the one in the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from molquery.cli.main import cli
from molquery.query.search import COLUMNS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page: Path) -> list[list[str]]:
    """The `molquery …` lines of a page's code blocks, without comments."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("molquery ")]


ALL = [(page.name, words) for page in PAGES for words in commands(page)]


def test_the_readme_shows_commands() -> None:
    shown = {word for name, words in ALL if name == "README.md" for word in words}
    assert {"ingest", "align", "search", "retrieve", "score", "stratify", "evaluate"} <= shown


@pytest.mark.parametrize(("page", "words"), ALL, ids=lambda v: v if isinstance(v, str) else "")
def test_every_command_and_option_exists(page: str, words: list[str]) -> None:
    command: click.Command = cli
    known = {option for p in cli.params for option in p.opts}
    words = re.sub(
        r"--db \S+", "", shlex.join(words)
    ).split()  # its value may be called like a command
    for word in words[1:]:
        if isinstance(command, click.Group) and not word.startswith("-"):
            found = command.get_command(click.Context(command), word)
            if found is not None:
                command = found
                known |= {option for p in command.params for option in p.opts}
    assert command is not cli, f"{page}: {words}"
    options = [w.split("=")[0] for w in words if re.match(r"--?[a-z]", w)]
    assert set(options) <= known | {"--help"}, f"{page}: {words}"


def test_the_columns_of_a_ranking_are_those_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for column, meaning in COLUMNS.items():
        assert f"| `{column}` | {meaning} |" in readme
