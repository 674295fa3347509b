"""Links and pages of the documentation, without a site: ``make docs`` holds the site itself to them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.markdown import anchors, links, pages, prose
from tests.paths import ROOT

PAGES = {page.relative_to(ROOT).as_posix(): page for page in pages()}
_anchors = cache(anchors)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files_and_headings_that_are_there(name: str) -> None:
    page, wrong = PAGES[name], []
    for line, target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or not file.is_relative_to(ROOT):
            wrong.append(f"line {line}: {target}: no such file")
        elif anchor and anchor not in _anchors(file):
            wrong.append(f"line {line}: {target}: no such heading")
    assert not wrong


def test_links_within_docs_stay_there_or_name_a_file_of_the_checkout_in_code() -> None:
    """What lies outside docs/ is not part of the site, so a link there would be dead on it."""
    outside = [
        f"{name}:{line}: {target}"
        for name, page in PAGES.items()
        if name != "README.md"
        for line, target in links(page)
        if not re.match(r"[a-z]+:|#", target)
        and not (page.parent / target.partition("#")[0]).resolve().is_relative_to(ROOT / "docs")
    ]
    assert not outside


def test_the_navigation_names_every_page_once_and_no_other() -> None:
    listed = re.findall(r"(?<=[ :])[\w/-]+\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    there = [path.relative_to(ROOT / "docs").as_posix() for path in PAGES.values() if path != ROOT / "README.md"]
    assert sorted(listed) == sorted(there)


def test_the_first_page_leads_to_every_other() -> None:
    """Forges show no navigation, and the README sends its readers there."""
    led = {target.partition("#")[0] for _, target in links(ROOT / "docs/index.md")}
    others = {
        path.relative_to(ROOT / "docs").as_posix() for path in PAGES.values() if path.is_relative_to(ROOT / "docs")
    }
    assert others - {"index.md"} <= led


def test_every_page_has_one_title_and_some_text() -> None:
    for name, page in PAGES.items():
        titles = [line for line in _unfenced(page) if line.startswith("# ")]
        assert len(titles) == 1, name
        assert len(_unfenced(page)) > 10, name


def _unfenced(page: Path) -> list[str]:

    return [line for _, line in prose(page) if line.strip()]
