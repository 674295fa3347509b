"""Rendering equals transformers', and what goes wrong in a template is told in one line."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from runtime.errors import TemplateError
from runtime.text.chat_template import ChatTemplate
from runtime.text.template.process import TemplateWorker
from runtime.text.template.wire import TemplateLimits
from tests.paths import GOLDEN as GOLDEN_FOLDER

GOLDEN = json.loads((GOLDEN_FOLDER / "chat_prompts" / "prompts.json").read_text("utf-8"))
WORKER = TemplateWorker()
USER = [{"role": "user", "content": "hi"}]


def render(source: str, messages: list[dict[str, Any]] | None = None, **variables: Any) -> str:
    messages = messages if messages is not None else USER
    return ChatTemplate(source, WORKER).render(messages, variables=variables).text


@pytest.mark.parametrize("prompt", GOLDEN["prompts"], ids=lambda prompt: f"{prompt['family']}-{prompt['case']}")
def test_rendering_equals_transformers(prompt: dict[str, str]) -> None:
    case = dict(GOLDEN["cases"][prompt["case"]])
    template = ChatTemplate(GOLDEN["templates"][prompt["family"]], WORKER)
    arguments = {name: case.pop(name) for name in ("tools", "documents", "add_generation_prompt") if name in case}
    arguments["server_texts"] = GOLDEN["special_tokens"]
    arguments["variables"] = {name: value for name, value in case.items() if name != "messages"}
    if "error" in prompt:
        with pytest.raises(TemplateError) as failure:
            template.render(case["messages"], **arguments)
        assert str(failure.value) == prompt["error"]
    else:
        assert template.render(case["messages"], **arguments).text == prompt["text"]


@pytest.mark.parametrize("source", ["{{ messages | no_such_filter }}", "{{ messages[0].content.no_such_method() }}"])
def test_what_the_renderer_lacks_is_named(source: str) -> None:
    with pytest.raises(TemplateError, match=r"the chat template .*no_such"):
        render(source)


def test_strftime_now_uses_the_clock() -> None:
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", WORKER, clock=lambda: datetime(2026, 3, 4, tzinfo=UTC))
    assert template.render(USER).text == "04 Mar 2026"


def test_continue_final_message_ends_where_the_content_ends() -> None:
    template = ChatTemplate("{% for m in messages %}[{{ m.role }}]{{ m.content }}[/]{% endfor %}[assistant]", WORKER)
    messages = [*USER, {"role": "assistant", "content": "The answer is "}]
    text = template.render(messages, continue_final_message=True).text
    assert text == "[user]hi[/][assistant]The answer is "


def test_a_template_that_drops_the_last_message_cannot_continue_it() -> None:
    with pytest.raises(TemplateError, match="drops the last message"):
        ChatTemplate("{{ messages[0].role }}", WORKER).render(USER, continue_final_message=True)


def test_output_and_source_are_bounded() -> None:
    worker = TemplateWorker(limits=TemplateLimits(source_chars=100, output_chars=10))
    with pytest.raises(TemplateError, match="produced more than the 10 characters that are allowed"):
        ChatTemplate("{{ 'x' * 11 }}", worker).render(USER)
    with pytest.raises(TemplateError, match="has 101 characters, allowed are 100"):
        ChatTemplate("x" * 101, worker)


@pytest.mark.parametrize(
    "source", ["{{ 1 / 0 }}", "{{ messages[0].get() }}", "{{ nothing.at.all }}", "{{ unknown() }}"]
)
def test_failures_are_one_line(source: str) -> None:
    with pytest.raises(TemplateError, match="the chat template failed: ") as failure:
        render(source)
    assert "\n" not in str(failure.value)


def test_errors_name_the_line() -> None:
    with pytest.raises(TemplateError, match=r"cannot be compiled: TemplateSyntaxError: .*\(line 2\)"):
        ChatTemplate("a\n{% if %}", WORKER).prove()
    with pytest.raises(TemplateError, match=r"failed: ZeroDivisionError: division by zero \(line 3\)"):
        render("a\n{{ 1 }}\n{{ 1 / (messages | length - 1) }}")


def test_messages_cannot_be_replaced_by_variables() -> None:

    template = ChatTemplate("{{ messages | length }}{{ tools is none }}", WORKER)
    assert template.render(USER, variables={"messages": [], "tools": "x"}).text == "1True"


def test_implied_variables_reach_templates_that_know_their_names() -> None:
    for source, text in (("{{ thinking }}", "True"), ("{% set v = 'thinking' %}{{ v }}", "thinking")):
        assert ChatTemplate(source, WORKER).render(USER, implied={"thinking": True}).text == text
    own = ChatTemplate("{{ thinking }}", WORKER).render(USER, implied={"thinking": True}, variables={"thinking": 1})
    assert own.text == "1"


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, {"x": [[10**30]]}])
def test_values_that_no_frame_holds_are_named(value: object) -> None:
    with pytest.raises(TemplateError, match="a value that no template can be given"):
        render("x", given=value)
    assert render("x") == "x"


def test_a_rendering_names_the_template_s_own_words() -> None:
    """Literals, the server's texts and the roles that the API knows; nothing else that came from outside."""
    template = ChatTemplate("{{ bos }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}", WORKER)
    messages = [*USER, {"role": "evil", "content": "hi"}]
    rendering = template.render(messages, server_texts={"bos": "<s>"})
    assert rendering.text == "<s><|user|>hi<|evil|>hi"
    assert rendering.spans == ((0, 11), (13, 15), (19, 21))
    given = template.render(messages, server_texts={"bos": "<s>"}, variables={"bos": "<s>"})
    assert given.spans == ((3, 11), (13, 15), (19, 21))


def test_a_continued_message_keeps_its_spans() -> None:
    template = ChatTemplate("[a]{{ messages[-1].content }}[b]", WORKER)
    rendering = template.render([{"role": "assistant", "content": "x"}], continue_final_message=True)
    assert (rendering.text, rendering.spans) == ("[a]x", ((0, 3),))


@pytest.mark.parametrize(
    ("source", "tools", "turns"),
    [
        ("{% if tools %}{{ tools | tojson }}{% endif %}", True, False),
        ("{{ raise_exception('No tools here') }} tools", False, False),
        ("{{ xml_tools }}{% if m.role == 'tool' %}{% endif %}", False, True),
        ("{% set head = '{\"a\": {}}' %}{% if tools is not none %}{{ m.tool_calls }}{% endif %}", True, True),
        ('{{ "don\'t" }}{%- for tool in tools -%}{%- endfor -%}', True, False),
    ],
)
def test_what_a_template_knows(source: str, tools: bool, turns: bool) -> None:
    template = ChatTemplate(source, TemplateWorker())
    assert (template.knows_tools, template.knows_tool_turns) == (tools, turns)
