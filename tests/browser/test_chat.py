"""The conversation in a real browser: type, stream, stop, answer again, edit, branch, by pointer and by keyboard."""

from __future__ import annotations

import re

import pytest

from tests.api.scripted_server import RunningServer
from tests.browser.conftest import OpenPage, held_after, last_answer, say

pytestmark = pytest.mark.browser


def test_a_question_is_answered_with_its_numbers(open_page: OpenPage, played: RunningServer) -> None:
    page = open_page()
    assert page.locator("h1").inner_text() == "What would you like to ask?"
    say(page, "so **bold** and `code`")
    answer = last_answer(page)
    assert answer.locator(".prose strong").inner_text() == "bold"
    assert answer.locator(".prose code").inner_text() == "code"
    numbers = answer.locator(".numbers").inner_text().replace("\n", " ")
    usage = played.chat("so **bold** and `code`")["usage"]
    assert f"prompt {usage['prompt_tokens']} (" in numbers
    assert f"answer {usage['completion_tokens']}" in numbers
    assert re.search(r"first token [\d.,]+ m?s", numbers)
    assert page.locator("#question").evaluate("field => field === document.activeElement")
    assert page.locator("[role=status].unseen").inner_text() == "Answer: so **bold** and `code`"


def test_the_numbers_are_what_the_times_and_counts_say(open_page: OpenPage) -> None:
    told = open_page().evaluate("""async () => {
      const { numbersOf } = await import('/playground/answer.js');
      const answer = (last, usage, tokens = []) => numbersOf({ times: { sent: 40, first: 140, last }, usage, tokens });
      return [
        answer(1140, { prompt_tokens: 9, completion_tokens: 11, prompt_tokens_details: { cached_tokens: 4 } }),
        answer(150, { prompt_tokens: 9, completion_tokens: 11 }),  // in one piece: no speed
        answer(640, null, [1, 2, 3]),  // stopped: what came is counted
        numbersOf({ times: { sent: 1, first: null, last: null }, usage: null, tokens: [] }),
      ];
    }""")
    assert told == [
        {"ttftMs": 100, "perSecond": 10, "prompt": 9, "cached": 4, "generated": 11},
        {"ttftMs": 100, "perSecond": None, "prompt": 9, "cached": None, "generated": 11},
        {"ttftMs": 100, "perSecond": 4, "prompt": None, "cached": None, "generated": 3},
        {"ttftMs": None, "perSecond": None, "prompt": None, "cached": None, "generated": None},
    ]


def test_the_second_turn_tells_what_was_cached(open_page: OpenPage) -> None:
    page = open_page()
    say(page, "a first message that is long enough to be found again")
    last_answer(page)
    say(page, "second")
    page.wait_for_selector(".message >> nth=3")
    numbers = last_answer(page).locator(".numbers").inner_text()
    assert int(re.search(r"\((\d+) cached\)", numbers)[1]) > 50  # type: ignore[index]
    assert page.locator(".message.user .text").all_inner_texts() == [
        "a first message that is long enough to be found again",
        "second",
    ]


@pytest.mark.parametrize("way", ["button", "key"])
def test_a_stream_shows_as_it_comes_and_stops_when_told(open_page: OpenPage, played: RunningServer, way: str) -> None:
    page = open_page()
    with held_after(played, 50):
        say(page, "*stream ")
        page.wait_for_function("() => document.querySelector('.message.assistant .prose')?.innerText.length > 20")
        assert page.locator(".message.assistant").get_attribute("data-status") == "streaming"
        stop = page.get_by_role("button", name="Stop")
        assert stop.is_enabled()
        if way == "button":
            stop.click()
        else:
            page.keyboard.press("Escape")
        answer = last_answer(page, "stopped")
    assert answer.locator(".prose").inner_text().startswith("stream stream")
    assert "stopped" in answer.locator(".numbers").inner_text()
    played.wait_idle()  # the server stopped as well
    say(page, "next")
    page.wait_for_selector(".message >> nth=3")
    assert last_answer(page).locator(".prose").inner_text() == "next"


def test_answers_again_edits_and_branches_are_kept_side_by_side(open_page: OpenPage) -> None:
    page = open_page()
    say(page, "one")
    last_answer(page)
    page.get_by_role("button", name="Answer again").click()
    page.wait_for_selector(".branches >> text=2/2")
    last_answer(page)
    page.locator(".message.user").get_by_role("button", name="Edit").click()
    field = page.get_by_label("Message text")
    assert field.input_value() == "one"
    field.fill("two")
    page.get_by_role("button", name="Send as a branch").click()
    page.wait_for_selector(".message.user .branches >> text=2/2")
    assert last_answer(page).locator(".prose").inner_text() == "two"
    page.get_by_role("button", name="Branch before").click()
    assert page.locator(".message.user .text").inner_text() == "one"
    assert page.locator(".message.assistant .branches").inner_text().strip() == "2/2"
    page.locator(".message.assistant").get_by_role("button", name="Branch before").click()
    assert page.locator(".message.assistant .branches").inner_text().strip() == "1/2"


def test_a_branch_begins_where_it_is_asked_for(open_page: OpenPage) -> None:
    page = open_page()
    for text in ("one", "two"):
        say(page, text)
        page.wait_for_function(
            "text => document.querySelector('.message.assistant:last-child .prose')?.innerText === text", arg=text
        )
        last_answer(page)
    page.get_by_role("button", name="Branch from here").first.click()
    assert page.locator(".message").count() == 2
    page.get_by_role("button", name="Back to what followed here").click()
    assert page.locator(".message").count() == 4
    page.get_by_role("button", name="Branch from here").first.click()
    say(page, "three")
    page.wait_for_selector(".message >> nth=3")
    assert last_answer(page).locator(".prose").inner_text() == "three"
    body = (
        page.evaluate("document.querySelector('#tab-exchange').click()")
        or page.locator("[aria-label=Request]").inner_text()
    )
    assert '"one"' in body
    assert '"two"' not in body
    page.get_by_role("button", name="New conversation").click()
    assert page.locator("h1").inner_text() == "What would you like to ask?"
    page.get_by_role("button", name="Back to the conversation before").click()
    assert page.locator(".message.user .text").all_inner_texts() == ["one", "three"]


def test_an_edited_answer_is_what_the_model_hears(open_page: OpenPage) -> None:
    page = open_page()
    say(page, "one")
    last_answer(page).get_by_role("button", name="Edit").click()
    page.get_by_label("Message text").fill("changed by hand")
    page.get_by_role("button", name="Keep as a branch").click()
    assert last_answer(page, "edited").locator(".prose").inner_text() == "changed by hand"
    say(page, "two")
    page.wait_for_selector(".message >> nth=3")
    last_answer(page)
    page.locator("#tab-exchange").click()
    assert '"content": "changed by hand"' in page.locator("[aria-label=Request]").inner_text()


def test_everything_can_be_reached_by_keyboard(open_page: OpenPage) -> None:
    page = open_page()
    page.keyboard.type("by key")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("board")
    page.keyboard.press("Enter")
    assert last_answer(page).locator(".prose").inner_text() == "by key\nboard"
    reached: list[str] = []
    for _ in range(60):
        page.keyboard.press("Shift+Tab")
        name = page.evaluate(
            "document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText ?? ''"
        )
        reached.append(name)
        if name == "Tokens":
            break
    assert {"Request and response", "Tokens"} <= set(reached)
    page.keyboard.press("Enter")
    page.wait_for_selector(".tokens")
    page.locator(".token").first.focus()
    for press in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(press)
    assert page.locator(".token:focus").get_attribute("data-index") == "1"
    assert page.locator(".alternatives p").inner_text() == "Token 2: the likeliest"
    page.keyboard.press("Escape")
    assert page.locator(".alternatives").count() == 0
    page.locator("#tab-sampling").focus()
    shown = []
    for _ in range(6):
        page.keyboard.press("ArrowRight")
        shown.append(page.locator("[role=tab][aria-selected=true]").inner_text())
        assert page.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"
    assert shown == ["Output", "Tools", "Request", "Engine", "Model", "Setup"]


def test_a_narrow_screen_shows_one_thing_at_a_time(open_page: OpenPage) -> None:
    page = open_page(width=360, height=740)
    say(page, "| a | b |\n|---|---|\n| " + "wide " * 40 + "| x |\n\n```\n" + "long" * 60 + "\n```\n" + "word" * 60)
    last_answer(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.locator("#panel").count() == 0
    page.get_by_role("button", name="Controls").click()
    panel = page.locator("#panel")
    assert panel.bounding_box() == {"x": 0, "y": 0, "width": 360, "height": 740}
    assert page.evaluate("document.activeElement.id") == "tab-sampling"
    for tab in ("output", "tools", "exchange", "engine", "card", "sampling"):
        page.locator(f"#tab-{tab}").click()
        assert page.evaluate("document.querySelector('.tab-panel').scrollWidth") <= 360, tab
    page.keyboard.press("Escape")
    assert page.locator("#panel").count() == 0
    assert page.evaluate("document.activeElement.id") == "panel-switch"
    page.locator(".message.assistant").get_by_role("button", name="Tokens").click()
    page.locator(".token").last.hover()
    box = page.locator(".alternatives").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    assert page.evaluate("document.documentElement.scrollWidth") == 360
