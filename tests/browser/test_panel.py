"""The panel in a real browser: what is sent, token by token, forms, tools, programs, engine, model."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from runtime.package.generation_config import GenerationConfig
from runtime.package.manifest import Package
from tests.api.scripted_server import RunningServer, running_server
from tests.browser.conftest import REFUSED, OpenPage, held_after, last_answer, say

pytestmark = pytest.mark.browser
CALL = '<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}</tool_call>'


def sent(page: Any) -> dict[str, Any]:
    """The last request's body as the page shows it."""
    page.locator("#tab-exchange").click()
    return dict(json.loads(page.locator("[aria-label=Request]").inner_text()))


def test_controls_show_the_models_defaults_and_send_only_what_was_set(open_page: OpenPage) -> None:
    with running_server(defaults=GenerationConfig(temperature=0.2, top_p=0.9, max_new_tokens=77)) as server:
        page = open_page(server)
        shown = page.locator(".number-field input[type=number]").evaluate_all(
            "all => all.map(field => field.placeholder)"
        )
        assert shown == ["0.2", "0.9", "0", "0", "1", "0", "0"]
        assert page.locator("#number-max_tokens").get_attribute("placeholder") == "77"
        assert page.get_by_label("Temperature, slider").input_value() == "0.2"
        say(page, "one")
        last_answer(page)
        body = sent(page)
        assert set(body) == {"model", "messages", "logprobs", "top_logprobs", "stream", "stream_options"}
        page.locator("#tab-sampling").click()
        page.fill("#system", "Be brief.")
        page.fill("#number-temperature", "0.5")
        page.fill("#number-seed", "7")
        page.fill("#number-max_tokens", "3")
        page.fill("#stop", "x\n\n y ")
        page.get_by_label("Ask for each token's probability").uncheck()
        say(page, "abcdef")
        page.wait_for_selector(".message >> nth=3")
        answer = last_answer(page)
        assert answer.locator(".prose").inner_text() == "abc"
        assert "cut at its length" in answer.locator(".numbers").inner_text()
        assert answer.get_by_role("button", name="Tokens").count() == 0
        body = sent(page)
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}
        assert {"temperature": 0.5, "seed": 7, "max_tokens": 3, "stop": ["x", "y"]}.items() <= body.items()
        assert "logprobs" not in body
        page.locator("#tab-sampling").click()
        page.get_by_role("button", name="Back to the model's defaults").click()
        assert page.locator("#number-temperature").input_value() == ""
        assert page.get_by_label("Temperature, slider").input_value() == "0.2"


def test_reasoning_is_told_from_the_answer(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_label("Reasoning").select_option("high")
    say(page, "skipped why</think>so")  # the template has said <think> and a line feed of it
    answer = last_answer(page)
    assert answer.locator(".reasoning summary").inner_text() == "Reasoning"
    answer.locator(".reasoning summary").click()
    assert answer.locator(".reasoning .prose").inner_text() == "why"
    assert answer.locator(".prose").last.inner_text() == "so"
    assert sent(page)["reasoning_effort"] == "high"


def test_each_token_shows_what_else_was_likely(open_page: OpenPage) -> None:
    page = open_page()
    page.fill("#number-max_tokens", "8")
    say(page, "?")
    last_answer(page).get_by_role("button", name="Tokens").click()
    tokens = page.locator(".token")
    assert tokens.count() == 8
    assert tokens.first.get_attribute("aria-label") == f"{tokens.first.inner_text()}, 3.8 %"  # one of 26 letters
    doubt = float(tokens.first.evaluate("token => token.style.getPropertyValue('--doubt')"))
    assert math.isclose(doubt, 25 / 26, rel_tol=1e-3)
    for index in range(8):
        tokens.nth(index).hover()
        card = page.locator(".alternatives")
        text = tokens.nth(index).inner_text()
        place = "abcde".find(text) + 1  # equal logits stand by their ids
        told = {0: "not among the 5 likeliest", 1: "the likeliest"}.get(place, f"number {place} by likelihood")
        assert card.locator("p").inner_text() == f"Token {index + 1}: {told}"
        assert card.locator("li.chosen code").inner_text() == text
        assert card.locator("li:not(.rest) code").all_inner_texts() == [*"abcde", *([text] if place == 0 else [])]
        rest = 100 * (21 if place else 20) / 26
        assert card.locator("li.rest .share").inner_text() == f"{rest:.1f} %"
    page.mouse.move(5, 5)
    assert page.locator(".alternatives").count() == 0


def test_a_schema_is_checked_as_it_is_written_and_holds_the_answer(open_page: OpenPage) -> None:
    page = open_page()
    page.locator("#tab-output").click()
    page.get_by_label("JSON of a schema").check()
    says = page.locator("#schema-says")
    page.fill("#schema", '{\n  "type": "object",\n  oops\n}')
    assert says.inner_text().startswith("Line 3: ")
    assert page.locator("#schema").get_attribute("aria-invalid") == "true"
    page.fill("#schema", '{"type": "objekt", "properties": {"a": {"minLength": -1}}, "required": "a"}')
    assert "#/type: one of array, boolean" in says.inner_text()
    assert "#/properties/a/minLength: a whole number from 0" in says.inner_text()
    assert "#/required: a list of names" in says.inner_text()
    page.get_by_role("button", name="Example", exact=True).click()
    assert says.inner_text() == "This is a schema."
    page.get_by_role("button", name="Ask the server whether it can").click()
    page.wait_for_selector("text=The server can hold answers to this.")
    page.fill(
        "#schema",
        '{"type": "object", "properties": {"n": {"const": 7}}, "required": ["n"], "additionalProperties": false}',
    )
    page.get_by_role("button", name="Tidy up").click()
    assert page.locator("#schema").input_value().count("\n") > 5
    assert page.locator("text=The server can hold answers to this.").count() == 0
    say(page, '{"n": 7}')
    answer = last_answer(page)
    assert json.loads(answer.locator("pre").inner_text()) == {"n": 7}
    assert answer.locator(".hljs-attr").inner_text() == '"n"'
    assert answer.locator(".verdict").inner_text() == "Fits the schema"
    body = sent(page)
    assert body["response_format"]["json_schema"]["schema"]["properties"] == {"n": {"const": 7}}


def test_an_answer_beside_its_schema_is_told(open_page: OpenPage) -> None:
    told = open_page().evaluate("""async () => {
      const { fit } = await import('/playground/schema.js');
      const schema = { type: 'object', properties: { n: { type: 'integer', maximum: 7 } }, required: ['n'] };
      return ['{"n": 7}', '{"n": 8}', '{}', '{"n": 7'].map((text) => fit(text, schema));
    }""")
    assert [(one["isWhole"], bool(one["problems"])) for one in told] == [
        (True, False),
        (True, True),
        (True, True),
        (False, False),
    ]
    assert "7" in told[1]["problems"][0]
    assert '"n"' in told[2]["problems"][0]


def test_readings_become_rates(open_page: OpenPage) -> None:
    told = open_page().evaluate(r"""async () => {
      const { between, reading } = await import('/playground/metrics.js');
      const page = (steps, tokens, seconds) => [
        '# HELP engine_steps_total Steps.', `engine_steps_total{model_name="a\\"b"} ${steps}`,
        `engine_step_tokens_total{model_name="x"} ${tokens}`, `engine_run_seconds_total{model_name="x"} ${seconds}`,
        'request_refused_total{code="429",model_name="x"} 3', 'request_refused_total{code="400",model_name="x"} 9',
        'num_request_max{model_name="x"} 4', 'num_request_max{model_name="y"} 8',
      ].join('\n');
      const [first, second, idle, anew] = [[10, 100, 1], [14, 150, 1.5], [14, 150, 1.5], [1, 5, 0.1]].map(
        (counts, index) => reading(page(...counts), index * 2000));
      return [second, between(first, second), between(second, idle), between(idle, anew)];
    }""")
    second, *rates = told
    assert (second["slots"], second["overloaded"], second["steps"], second["memory"]) == (12, 3, 14, None)
    assert rates == [
        {"stepMs": 125, "tokensPerSecond": 25},
        {"stepMs": None, "tokensPerSecond": 0},
        {"stepMs": None, "tokensPerSecond": None},
    ]


def test_a_form_that_the_server_cannot_hold_is_told(open_page: OpenPage) -> None:
    page = open_page(allowed=REFUSED)
    page.locator("#tab-output").click()
    page.get_by_label("A pattern").check()
    page.fill("#regex", "(unclosed")
    page.get_by_role("button", name="Ask the server whether it can").click()
    page.wait_for_selector("[role=status].wrong >> text=/./")
    page.get_by_label("A grammar (Lark)").check()
    page.fill("#grammar", 'start: "maybe"')
    say(page, "maybe")
    assert last_answer(page).locator(".prose").inner_text() == "maybe"
    assert sent(page)["structured_outputs"] == {"grammar": 'start: "maybe"'}
    page.get_by_role("button", name="New conversation").click()
    page.locator("#tab-output").click()
    page.get_by_label("One of some texts").check()
    page.fill("#choices", "yes\nno\n")
    say(page, "no")
    assert last_answer(page).locator(".prose").inner_text() == "no"
    page.get_by_label("JSON of a schema").check()
    page.fill("#schema", "{")
    say(page, "again")
    page.wait_for_selector(".message >> nth=3")
    assert "not yet valid JSON" in last_answer(page, "failed").get_by_role("alert").inner_text()


def test_an_answer_that_is_cut_does_not_pass_for_whole(open_page: OpenPage) -> None:
    page = open_page()
    page.fill("#number-max_tokens", "4")
    page.locator("#tab-output").click()
    page.get_by_label("Any JSON object").check()
    say(page, '{"a": 1}')
    answer = last_answer(page)
    assert answer.locator(".verdict").inner_text() == "Not whole JSON"


def test_calls_are_shown_and_answered_by_hand(open_page: OpenPage) -> None:
    page = open_page()
    page.locator("#tab-tools").click()
    page.get_by_role("button", name="Add a tool").click()
    definition = page.get_by_label("Definition")
    good = definition.input_value()
    definition.fill('{"name": "", "parameters": {"type": "thing"}}')
    says = page.locator("#tool-1-says").inner_text()
    assert "name: a text of 1 to 256 characters is needed." in says
    assert "parameters/type: one of" in says
    definition.fill(good)
    say(page, CALL)
    answer = last_answer(page)
    assert answer.locator(".call .name").inner_text() == "calls get_weather"
    assert json.loads(answer.locator(".call pre").inner_text()) == {"city": "Oslo"}
    page.get_by_label("What get_weather gives back").fill("rain")
    page.get_by_role("button", name="Send the result").click()
    page.wait_for_selector(".message.tool")
    assert page.locator(".message.tool .text").inner_text() == "rain"
    page.wait_for_selector(".message >> nth=3")
    last_answer(page)
    body = sent(page)
    assert body["tools"][0]["function"]["name"] == "get_weather"
    assert body["tool_choice"] == "auto"
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "tool"]
    call = body["messages"][1]["tool_calls"][0]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("get_weather", {"city": "Oslo"})
    assert body["messages"][2] == {"role": "tool", "tool_call_id": call["id"], "content": "rain"}


@pytest.mark.parametrize("name", ["curl", "Python"])
def test_the_request_as_a_program_does_the_same(open_page: OpenPage, name: str) -> None:
    page = open_page()
    page.fill("#number-top_k", "5")
    say(page, 'it\'s "so" \\ $HOME `id` é \u2028 end')
    answer = last_answer(page)
    text = page.evaluate("() => [...document.querySelectorAll('.message.assistant .prose')].at(-1).innerText")
    answer.get_by_role("button", name="Request and response").click()
    page.get_by_role("group", name="The request as a program").get_by_role("button", name=name).click()
    page.get_by_role("button", name=f"Copy as {name}").click()
    page.wait_for_selector("text=Copied")
    program = page.evaluate("navigator.clipboard.readText()")
    command = ["bash", "-c", program] if name == "curl" else [sys.executable, "-c", program]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, capture_output=True, timeout=60, env=environment, check=False)
    printed = done.stdout.decode()
    if name == "curl":
        events = [line[6:] for line in printed.splitlines() if line.startswith("data: {")]
        choices = [choice for event in events for choice in json.loads(event)["choices"]]
        printed = "".join(choice["delta"].get("content", "") for choice in choices)
    assert 'it\'s "so" \\ $HOME `id` é' in printed, done.stderr
    assert "id" in text


def test_the_program_for_node_says_the_same(open_page: OpenPage) -> None:
    page = open_page()
    say(page, "it's")
    last_answer(page)
    body = sent(page)
    page.get_by_role("button", name="Node").click()
    program = page.locator("[aria-label='As Node']").inner_text()
    (given,) = re.findall(r"completions\.create\((\{.*?\n\})\);", program, re.DOTALL)
    assert json.loads(given) == body
    assert "baseURL" in program


def test_the_raw_answer_is_what_came(open_page: OpenPage, played: RunningServer) -> None:
    page = open_page()
    say(page, "raw")
    last_answer(page)
    page.locator("#tab-exchange").click()
    events = page.locator("[aria-label=Response]").inner_text().split("\n\n")
    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    assert "".join(c["delta"].get("content", "") for chunk in chunks for c in chunk["choices"]) == "raw"
    assert re.search(r"x-request-id: [0-9a-f]{32}", page.locator("#tab-panel").inner_text())
    assert f"POST {played.base_url}/v1/chat/completions" in page.locator("#tab-panel").inner_text()


def test_the_engine_is_seen_at_work(open_page: OpenPage, played: RunningServer) -> None:
    page = open_page()
    page.locator("#tab-engine").click()
    page.wait_for_selector("[aria-label='0 of 4 slots in use']")
    with held_after(played, 50):
        say(page, "*busy ")
        page.wait_for_selector("[aria-label='1 of 4 slots in use']")
        assert page.locator(".slots i.used").count() == 1
        assert re.search(
            r"Tokens a second[^:]*: most [1-9]", page.locator(".line svg").first.get_attribute("aria-label")
        )
        page.get_by_role("button", name="Stop").click()
    page.wait_for_selector("[aria-label='0 of 4 slots in use']")
    facts = page.locator(".facts").inner_text()
    assert "Prompt tokens from cache" in facts
    assert re.search(r"Memory of the process\s+[\d.]+ MB", facts)
    played.wait_idle()


@pytest.mark.model
def test_the_model_card_tells_plan_distance_and_licence(open_page: OpenPage, default_package: Package) -> None:
    page = open_page()
    text = (default_package.root / "manifest.json").read_text()
    page.route("**/v1/manifest", lambda route: route.fulfill(json={"manifest_file": text}))
    page.locator("#tab-card").click()
    page.wait_for_selector("text=Precision plan, graph ort")
    shown = page.locator("#tab-panel").inner_text()
    manifest = default_package.manifest
    for group, form in manifest.graphs["ort"].precision.items():
        assert group in shown
        assert form in shown
    assert manifest.quality is not None
    assert f"{manifest.quality.mean_kl:.4f} nats" in shown
    assert f"{manifest.quality.top1_agreement * 100:.1f} %" in shown
    assert manifest.source.name in shown
    page.locator("summary", has_text="Full text").click()
    assert page.locator("[aria-label=Licence]").inner_text() == "Do as you please.\n"
    both = {"data": [{"id": name, "root": name, "parent": None} for name in (manifest.served_names[0], "another")]}
    page.route("**/v1/models", lambda route: route.fulfill(json=both))
    page.reload()
    page.get_by_label("Model", exact=True).first.select_option("another")
    page.locator("#tab-card").click()
    page.wait_for_selector(f"text=The server tells of the package of {manifest.name} alone.")
