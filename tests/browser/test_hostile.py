"""What a hostile model, server or pasted text does to the page: nothing but be looked at, and the page goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.browser.conftest import REFUSED, OpenPage, last_answer, say

pytestmark = pytest.mark.browser
MARKUP = "\"'><img src=x onerror=window.hurt=1><script>window.hurt=1</script>{{7*7}}${window.hurt=1}\u202etxt"
DEEP = 6000
NESTED = {
    "quotations": "> " * DEEP + "end",
    "lists": "\n".join("  " * depth + "- x" for depth in range(300)),
    "brackets": "[" * 20_000,
    "images": "![" * 10_000,
    "stars": "*a **b " * 5_000,
    "half links": "[a](" * 5_000,
    "underscores": "_" * 20_000 + "a",
    "backquotes": "`" * 20_000 + "a" + "`" * 19_999,
    "entities": "&#x" * 20_000,
    "one line": "word " * 40_000,
    "one word": "w" * 200_000,
    "table": "|" * 3_000 + "\n" + "|-" * 3_000 + "|\n" + ("|" * 3_000 + "\n") * 3,
    "code": "```python\n" + "x = (" * 20_000 + "\n```",
    "code of one line": "```json\n" + json.dumps(["x" * 10] * 20_000) + "\n```",
}


def scripted(page: Any, *deltas: dict[str, Any]) -> None:
    """The server answers with these pieces, whatever is asked: what the scripted model cannot say in time."""
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))


def goes_on(page: Any) -> None:
    """The page answers to a person: another question is asked and its answer shown."""
    before = page.locator(".message").count()
    scripted(page, {"content": "still here"})
    say(page, "and now?")
    page.wait_for_selector(f".message >> nth={before + 1}")
    assert last_answer(page).locator(".prose").inner_text() == "still here"
    assert page.evaluate("window.hurt") is None


@pytest.mark.parametrize("name", NESTED)
def test_no_text_of_a_model_ends_the_page(open_page: OpenPage, name: str) -> None:
    page = open_page()
    scripted(page, {"content": NESTED[name]})
    say(page, "say it")
    assert last_answer(page).locator(".prose").inner_text() != ""
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    goes_on(page)


def test_no_call_or_form_of_an_answer_ends_the_page(open_page: OpenPage) -> None:
    page = open_page()
    deep = "[" * DEEP + "]" * DEEP
    scripted(page, {"tool_calls": [{"index": 0, "id": "1", "function": {"name": MARKUP, "arguments": deep}}]})
    say(page, "call it")
    call = last_answer(page).locator(".call")
    assert call.locator(".name code").inner_text() == MARKUP
    assert call.locator("pre").inner_text().startswith("[")
    page.locator("#tab-output").click()
    page.get_by_label("Any JSON object").check()
    scripted(page, {"content": deep}, {"reasoning_content": MARKUP})
    page.get_by_role("button", name="New conversation").click()
    say(page, "as JSON")
    last_answer(page)
    page.get_by_label("Text", exact=True).check()
    goes_on(page)


def test_no_schema_or_tool_that_is_pasted_ends_the_page(open_page: OpenPage) -> None:
    page = open_page()
    page.locator("#tab-output").click()
    page.get_by_label("JSON of a schema").check()
    deep = '{"not":' * DEEP + "true" + "}" * DEEP
    page.fill("#schema", deep)
    assert "nested too deeply" in page.locator("#schema-says").inner_text()
    page.fill("#schema", json.dumps({"title": MARKUP, "properties": {MARKUP: {"type": MARKUP}}}))
    assert MARKUP in page.locator("#schema-says").inner_text()
    page.get_by_label("Text", exact=True).check()
    page.locator("#tab-tools").click()
    page.get_by_role("button", name="Add a tool").click()
    page.get_by_label("Definition").fill(json.dumps({"name": MARKUP, "description": MARKUP}))
    assert f"must call {MARKUP}" in page.locator("#tool-choice option").all_text_contents()
    page.get_by_label("Definition").fill('{"name": "deep", "parameters": ' + deep + "}")
    assert "nested too deeply" in page.locator("#tool-1-says").inner_text()
    page.get_by_role("button", name="Remove tool 1").click()
    goes_on(page)


@pytest.mark.parametrize("names", [[MARKUP], [MARKUP, "b/" + MARKUP], []])
def test_no_name_of_a_model_ends_the_page(open_page: OpenPage, names: list[str]) -> None:
    page = open_page(ready=False)
    listed = {"data": [{"id": name, "root": name, "parent": None} for name in names]}
    page.route("**/v1/models", lambda route: route.fulfill(json=listed))
    page.route("**/playground/about", lambda route: route.fulfill(json={"models": [], "max_stop_strings": 4}))
    page.reload()
    page.wait_for_selector("#question:not([disabled])")
    if names:
        shown = page.locator(".bar .model")
        assert MARKUP in (shown.get_attribute("title") or shown.inner_text())
    goes_on(page)
    for tab in ("sampling", "output", "tools", "exchange", "engine", "card", "setup"):
        if page.locator(f"#tab-{tab}").count():
            page.locator(f"#tab-{tab}").click()
    assert page.locator("img, script[src=x]").count() == 0
    assert page.evaluate("window.hurt") is None


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"error": {"message": MARKUP}}),
        json.dumps({"error": {"message": {"type": "img", "props": {"src": "x"}, "constructor": None}}}),
        json.dumps({"error": [1, 2]}),
        MARKUP * 500,
        "",
    ],
)
def test_no_refusal_of_a_server_ends_the_page(open_page: OpenPage, body: str) -> None:
    page = open_page(allowed=REFUSED)
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=400, body=body))
    say(page, "anything")
    problem = last_answer(page, "failed").get_by_role("alert")
    assert problem.locator("p").last.inner_text().strip() != ""
    assert problem.locator("img").count() == 0
    goes_on(page)


def test_what_turns_the_direction_of_code_is_seen(open_page: OpenPage) -> None:
    """Trojan Source (CVE-2021-42574): code that reads otherwise than it runs."""
    page = open_page()
    scripted(page, {"content": "```js\nif (a) /*\u202e } \u2066*/ {\n```\nand `b\u202e` or\n\n```\n\u2067c\n```"})
    say(page, "code")
    prose = last_answer(page).locator(".prose")
    assert prose.locator("pre").all_inner_texts() == ["if (a) /*U+202E } U+2066*/ {", "U+2067c"]
    assert prose.locator(":not(pre) > code").inner_text() == "bU+202E"
    page.locator("#tab-exchange").click()
    assert "\u202e" not in page.locator(".prose").first.inner_text()


@pytest.mark.parametrize("key", ["gänsefüßchen”", "two\nlines", "a\u202eb"])
def test_a_key_that_no_header_holds_is_a_wrong_key(open_page: OpenPage, key: str) -> None:
    page = open_page()
    page.evaluate("key => { sessionStorage.setItem('powertrain.key', key); localStorage.setItem('tree', '{'); }", key)
    page.reload()
    page.locator("dialog").wait_for()
    assert page.locator("#key-says").inner_text() == "This key does not open the server."
    assert page.evaluate("sessionStorage.length") == 0


def test_many_messages_are_shown(open_page: OpenPage) -> None:
    page = open_page()
    scripted(page, {"content": "short"})
    for count in range(1, 26):
        say(page, f"question {count}")
        page.wait_for_function("count => document.querySelectorAll('.message').length === count", arg=2 * count)
        last_answer(page)
    assert page.locator(".message").count() == 50
    goes_on(page)
