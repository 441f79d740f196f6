"""Every link between the pages of this repository leads to a file and a heading that exist."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

SKIPPED = {"build", "engines"}  #: folders of what is made, besides hidden ones
LINK = re.compile(r"\]\(([^)\s]+)\)")


def list_pages() -> list[Path]:
    """The tracked pages; all pages where this is not a checkout."""
    listed = subprocess.run(["git", "ls-files", "-z", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).exists()]
    pages = (path.relative_to(ROOT) for path in ROOT.rglob("*.md"))
    return [ROOT / page for page in pages if not any(part[0] == "." or part in SKIPPED for part in page.parts)]


def read_prose(page: Path) -> Iterator[str]:
    """Lines outside code blocks."""
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside:
            yield line


def list_anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them: lower case, no punctuation, hyphens for spaces."""
    headings = (line.lstrip("#").strip() for line in read_prose(page) if re.match(r"#{1,6} ", line))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def find_broken(page: Path) -> list[str]:
    """The links of `page` that lead nowhere. Links to other sites are not followed."""
    broken = []
    for link in (link for line in read_prose(page) for link in LINK.findall(re.sub(r"`[^`]*`", "", line))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if target.is_dir() and anchor:
            target = target / "README.md"
        if not target.exists() or (anchor and anchor not in list_anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", list_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert not find_broken(page)


def test_broken_links_are_found(tmp_path: Path) -> None:
    assert ROOT / "README.md" in list_pages()
    (tmp_path / "other.md").write_text("# A title, with `code`\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# One\n[a](other.md) [b](other.md#a-title-with-code) [c](#one) [d](https://example.org/x) `[e](no.md)`\n"
        "```\n# not a heading\n[f](no.md)\n```\n[g](missing.md) [h](other.md#one) [i](#not-a-heading)\n"
    )
    assert find_broken(page) == ["missing.md", "other.md#one", "#not-a-heading"]
