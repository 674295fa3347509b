"""What goes wrong in a real browser: no key, too many requests, a dead engine, a cut connection, a hostile model."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from runtime.errors import DeviceLost
from tests.api.scripted_server import RunningServer, running_server
from tests.browser.conftest import REFUSED, OpenPage, held_after, last_answer, say
from tests.browser.cut_proxy import cut_proxy
from tests.fakes import Call

pytestmark = pytest.mark.browser
KEY = "a-secret-key"
POLICY_WORDS = ("This document requires", "Creating a TrustedTypePolicy", "Connecting to", "Fetch API cannot load")
"""How a browser's console begins what it says of the policy's refusals that a test provokes."""
HOSTILE = r"""<script>window.hurt = 1; alert(1)</script>
<img src=x onerror="window.hurt = 1"> <svg onload="window.hurt = 1"></svg>
<a href="javascript:window.hurt = 1">raw</a> <iframe srcdoc="<script>parent.hurt = 1</script>"></iframe>
[link](javascript:window.hurt=1) [data](data:text/html,<script>alert(1)</script>) [odd](JaVaScRiPt:window.hurt=1)
[entity](&#106;avascript:window.hurt=1) [tab](java&Tab;script:window.hurt=1) <javascript:window.hurt=1>
[vb](vbscript:x) [file](file:///etc/passwd) [good](https://example.com/a?b=1&c="onmouseover="window.hurt=1)
![picture](http://127.0.0.1:9/leak.png) ![p](https://example.com/leak?q=secret "t")
<style>body { display: none }</style><form action="/v1/chat/completions"><input name=key></form>
<div id="app" class="panel" style="position:fixed;inset:0" onclick="window.hurt=1">over everything</div>
```html"><img src=x onerror=window.hurt=1>
</code></pre><script>window.hurt = 1</script>
```
`<img src=x onerror=window.hurt=1>` <math><mtext><table><mglyph><style><img src=x onerror=window.hurt=1>
- [ ] <base href="https://example.com/">"""


def limited_keys(folder: Path) -> str:
    """A keys file with a key for two requests a minute."""
    path = folder / "keys.toml"
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    path.write_text(f'[[key]]\nname = "one"\nsha256 = "{digest}"\nrole = "client"\nrequests_per_minute = 1\n')
    path.chmod(0o600)
    return str(path)


def test_a_hostile_answer_is_looked_at_and_does_nothing(open_page: OpenPage) -> None:
    page = open_page()
    say(page, HOSTILE)
    answer = last_answer(page)
    for part in (answer.locator(".prose"), page.locator("body")):
        assert part.locator("iframe, form[action], style, object, embed, base, math, img").count() == 0
    assert (
        answer.locator("script, svg:not(.icon), input, [style]:not(.token), [onclick], [onerror], [onload]").count()
        == 0
    )
    links = answer.locator(".prose a").evaluate_all("all => all.map(link => [link.protocol, link.rel, link.target])")
    assert links
    assert all(link == ["https:", "noopener noreferrer nofollow", "_blank"] for link in links)
    shown = answer.locator(".prose").inner_text()
    assert "<script>window.hurt = 1; alert(1)</script>" in shown  # as text
    assert "[image: picture - http://127.0.0.1:9/leak.png]" in shown
    answer.get_by_role("button", name="Tokens").click()
    page.locator(".token").first.hover()
    for tab in ("exchange", "engine", "card"):
        page.locator(f"#tab-{tab}").click()
    assert page.evaluate("window.hurt") is None
    assert page.locator("#app").count() == 1


def test_hostile_calls_and_values_are_text_too(open_page: OpenPage) -> None:
    page = open_page()
    page.locator("#tab-tools").click()
    page.get_by_role("button", name="Add a tool").click()
    page.locator("#tool-choice").wait_for()
    say(
        page,
        '<tool_call>{"name": "get_weather", "arguments": {"city": "<img src=x onerror=window.hurt=1>"}}</tool_call>',
    )
    answer = last_answer(page)
    assert '"<img src=x onerror=window.hurt=1>"' in answer.locator(".call pre").inner_text()
    assert answer.locator("img").count() == 0
    assert page.evaluate("window.hurt") is None


def test_what_would_run_text_is_refused_by_the_policy(open_page: OpenPage) -> None:
    page = open_page(allowed=POLICY_WORDS)
    tried = """() => {
      const failed = [];
      for (const act of [
        () => setTimeout('window.hurt = 1'),
        () => { document.body.innerHTML += '<b>x</b>'; },
        () => { document.createElement('script').text = 'window.hurt = 1'; },
        () => { trustedTypes.createPolicy('mine', { createHTML: (text) => text }); },
      ]) try { act(); failed.push('allowed'); } catch (error) { failed.push(error.name); }
      return failed;
    }"""
    assert page.evaluate(tried) == ["TypeError"] * 4  # a text where a trusted one is asked for
    assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    assert page.evaluate("window.hurt") is None


def test_a_key_is_asked_for_once_and_kept_in_this_tab(open_page: OpenPage) -> None:
    with running_server(api_key=(f"one={KEY}",)) as server:
        page = open_page(server, ready=False, allowed=REFUSED)
        dialog = page.get_by_role("dialog", name="This server asks for a key")
        dialog.wait_for()
        assert page.locator("#key").evaluate("field => field === document.activeElement")
        page.keyboard.press("Escape")
        page.keyboard.type("wrong-key")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.querySelector('#key-says').innerText !== ''")
        assert page.locator("#key-says").inner_text() == "This key does not open the server."
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        page.wait_for_selector("#question:not([disabled])")
        say(page, "with a key")
        assert last_answer(page).locator(".prose").inner_text() == "with a key"
        page.locator("#tab-exchange").click()
        assert "$API_KEY" in page.locator("#tab-panel").inner_text()
        assert KEY not in page.content()
        page.reload()
        page.wait_for_selector("#question:not([disabled])")
        assert page.locator("dialog").count() == 0
        assert page.evaluate("localStorage.length") == 0
        page.get_by_role("button", name="Forget key").click()
        page.locator("dialog").wait_for()
        assert page.evaluate("sessionStorage.length") == 0
        again = open_page(server, ready=False, allowed=REFUSED)
        again.locator("dialog").wait_for()


def test_too_many_requests_say_when_to_try_again(open_page: OpenPage, tmp_path: Path) -> None:
    with running_server(keys_file=limited_keys(tmp_path)) as server:
        page = open_page(server, ready=False, allowed=REFUSED)
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        page.wait_for_selector("#question:not([disabled])")
        say(page, "first")
        last_answer(page)
        say(page, "second")
        answer = last_answer(page, "failed")
        problem = answer.get_by_role("alert")
        assert "The server is busy" in problem.inner_text()
        again = answer.get_by_role("button", name="Try again in")
        assert again.is_disabled()
        page.locator("#tab-engine").click()
        page.wait_for_selector("text=Metrics are closed: This API key does not open metrics")


def test_a_dead_engine_is_told_and_asked_again(open_page: OpenPage) -> None:
    def lose(_call: Call) -> None:
        raise DeviceLost("broken at /secret/path")

    with running_server() as server:
        page = open_page(server, allowed=REFUSED)
        server.session.before_call = lose
        say(page, "anyone?")
        assert "secret" not in last_answer(page, "failed").get_by_role("alert").inner_text()
        page.locator("#tab-engine").click()
        page.wait_for_selector(".slots")
        say(page, "still there?")
        page.wait_for_selector(".message >> nth=3")
        answer = last_answer(page, "failed")
        assert "The model does not answer" in answer.get_by_role("alert").inner_text()
        answer.get_by_role("button", name="Try again").wait_for()


def test_an_answer_that_fails_midway_keeps_what_came(open_page: OpenPage) -> None:
    with running_server() as server:
        page = open_page(server, allowed=REFUSED)
        say(page, "!3:abcdef")
        answer = last_answer(page, "failed")
        assert answer.locator(".prose").inner_text() == "abc"
        assert "The model failed" in answer.get_by_role("alert").inner_text()


def test_a_stream_that_ends_too_early_is_no_answer(open_page: OpenPage) -> None:
    page = open_page()
    chunk = 'data: {"choices":[{"index":0,"delta":{"content":"half"},"logprobs":null,"finish_reason":null}]}\n\n'
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=chunk, content_type="text/event-stream"))
    say(page, "whole?")
    answer = last_answer(page, "failed")
    assert answer.locator(".prose").inner_text() == "half"
    assert "Connection lost" in answer.get_by_role("alert").inner_text()


def test_a_cut_connection_keeps_what_came_and_can_be_tried_again(open_page: OpenPage, played: RunningServer) -> None:
    with cut_proxy(played.port) as proxy:
        page = open_page(url=proxy.base_url, allowed=("Failed to load resource", "net::"))
        with held_after(played, 50):
            say(page, "*cut ")
            page.wait_for_function("() => document.querySelector('.message.assistant .prose')?.innerText.length > 20")
            proxy.cut()
            answer = last_answer(page, "failed")
        assert answer.locator(".prose").inner_text().startswith("cut cut")
        assert "Connection lost" in answer.get_by_role("alert").inner_text()
        played.wait_idle()
        answer.get_by_role("button", name="Try again").click()
        page.wait_for_selector(".branches >> text=2/2")
        answer = last_answer(page, "failed")
        assert "cannot be reached" in answer.get_by_role("alert").inner_text()
        proxy.mend()
        say(page, "mended")
        page.wait_for_selector(".message >> nth=3")
        assert last_answer(page).locator(".prose").inner_text() == "mended"


def test_a_server_that_is_gone_is_told_at_once(open_page: OpenPage, played: RunningServer) -> None:
    with cut_proxy(played.port) as proxy:
        page = open_page(url=proxy.base_url, allowed=("Failed to load resource", "net::"))
        proxy.cut()
        page.locator("#tab-card").click()
        page.wait_for_selector("text=The package could not be read")
        proxy.mend()
        page.locator("#tab-sampling").click()
        page.locator("#tab-card").click()
        page.wait_for_selector("text=This model comes without a manifest")
