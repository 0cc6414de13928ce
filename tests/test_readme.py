"""The README's commands are those that exist, and its links lead somewhere."""

import re
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.strip()]


def test_readme_shows_the_two_commands_first() -> None:
    assert commands(ROOT / "README.md")[:2] == ["make demo", "make test"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_of_the_pages_exist(page: Path) -> None:
    for line in commands(page):
        if line.startswith("make "):
            dry = ["make", "--dry-run", "--always-make", *line.split()[1:]]
            subprocess.run(dry, cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_oneslice_commands_of_the_pages_exist(page: Path) -> None:
    for line in commands(page):
        words = line.split()
        if words[0] != "oneslice":
            continue
        # `audit verify` is two words, `ingest DATA` one and an argument that help does not mind.
        called = takewhile(lambda word: not word.startswith("-"), words[1:])
        command = ["python", "-m", "oneslice", *called, "--help"]
        shown = subprocess.run(
            [sys.executable, *command[1:]],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        for option in (word for word in words[3:] if word.startswith("--")):
            assert option in shown, f"{line}: no {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target
