"""How the page looks and reads: axe-core finds nothing serious in any view, in light and dark, wide and narrow.

SCREENSHOTS=FOLDER keeps a picture of each view.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import OpenPage, last_answer, say
from tests.paths import ROOT

pytestmark = pytest.mark.browser
AXE = ROOT / "tests/browser/axe/axe.min.js"
ANSWER = """## Adding

Some **bold** text, a [link](https://example.com) and `code`.

> A quotation

```python
def add(a: int, b: int) -> int:
    # the sum
    return a + b  # "text"
```

| river | length |
|---|---|
| Nile | 6650 km |

1. one
2. two"""


def findings(page: Any) -> list[str]:
    """What axe-core calls serious or critical, each with the first element that it names."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
    bad = [one for one in found if one["impact"] in {"serious", "critical"}]
    return [f"{one['id']}: {node['html'][:200]} {node['failureSummary']}" for one in bad for node in one["nodes"][:3]]


def keep(page: Any, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_nothing_serious_is_found_in_any_view(open_page: OpenPage, scheme: str, width: int) -> None:
    page = open_page(width=width, height=860, scheme=scheme)
    name = f"{width}-{scheme}"
    keep(page, f"{name}-empty")
    assert findings(page) == []
    say(page, ANSWER)
    answer = last_answer(page)
    keep(page, f"{name}-answer")
    assert findings(page) == []
    answer.get_by_role("button", name="Tokens").click()
    page.locator(".token").nth(3).hover()
    keep(page, f"{name}-tokens")
    assert findings(page) == []
    answer.get_by_role("button", name="Edit").click()
    if width == 360:
        page.get_by_role("button", name="Controls").click()
    for tab in ("sampling", "output", "tools", "exchange", "engine", "card"):
        page.locator(f"#tab-{tab}").click()
        if tab == "output":
            page.get_by_label("JSON of a schema").check()
            page.get_by_role("button", name="Example", exact=True).click()
        if tab == "tools":
            page.get_by_role("button", name="Add a tool").click()
        if tab == "engine":
            page.wait_for_selector(".slots")
        if tab == "card":
            page.wait_for_selector("text=Full text")
        keep(page, f"{name}-{tab}")
        assert findings(page) == [], tab


def test_colours_follow_the_reader_and_can_be_chosen(open_page: OpenPage) -> None:
    page = open_page(scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    assert dark != "rgb(255, 255, 255)"
    page.get_by_role("button", name="Colours: auto").click()
    page.wait_for_function("() => getComputedStyle(document.body).backgroundColor === 'rgb(255, 255, 255)'")
    page.get_by_role("button", name="Colours: light").click()
    page.wait_for_function("dark => getComputedStyle(document.body).backgroundColor === dark", arg=dark)
