"""Rendering equals transformers', and a template can neither escape nor run away."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from runtime.errors import TemplateError
from runtime.text.chat_template import ChatTemplate, TemplateLimits
from tests.paths import GOLDEN as GOLDEN_FOLDER

GOLDEN = json.loads((GOLDEN_FOLDER / "chat_prompts" / "prompts.json").read_text("utf-8"))
USER = [{"role": "user", "content": "hi"}]


def render(source: str, messages: list[dict[str, Any]] | None = None, **variables: Any) -> str:
    return ChatTemplate(source).render(messages if messages is not None else USER, variables=variables)


@pytest.mark.parametrize("prompt", GOLDEN["prompts"], ids=lambda prompt: f"{prompt['family']}-{prompt['case']}")
def test_rendering_equals_transformers(prompt: dict[str, str]) -> None:
    case = dict(GOLDEN["cases"][prompt["case"]])
    template = ChatTemplate(GOLDEN["templates"][prompt["family"]])
    arguments = {name: case.pop(name) for name in ("tools", "documents", "add_generation_prompt") if name in case}
    variables = {**GOLDEN["special_tokens"], **{name: value for name, value in case.items() if name != "messages"}}
    if "error" in prompt:
        with pytest.raises(TemplateError) as failure:
            template.render(case["messages"], variables=variables, **arguments)
        assert str(failure.value) == prompt["error"]
    else:
        assert template.render(case["messages"], variables=variables, **arguments) == prompt["text"]


def test_none_is_not_iterable() -> None:
    """Published templates ask for tools this way, where none has no length."""
    ask = "{{ 'some' if tools is iterable and tools | length > 0 else 'no' }}"
    source = ask + " {{ 'x' is iterable }} {{ 1 is iterable }}"
    assert render(source) == "no True False"
    template = ChatTemplate(source)
    assert template.render(USER, variables={}, tools=[{"type": "function"}]) == "some True False"


@pytest.mark.parametrize("source", ["{{ messages | no_such_filter }}", "{{ messages[0].content.no_such_method() }}"])
def test_what_the_renderer_lacks_is_named(source: str) -> None:
    with pytest.raises(TemplateError, match=r"the chat template .*no_such"):
        render(source)


def test_strftime_now_uses_the_clock() -> None:
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", clock=lambda: datetime(2026, 3, 4, tzinfo=UTC))
    assert template.render(USER, variables={}) == "04 Mar 2026"


def test_continue_final_message_ends_where_the_content_ends() -> None:
    template = ChatTemplate("{% for m in messages %}[{{ m.role }}]{{ m.content }}[/]{% endfor %}[assistant]")
    messages = [*USER, {"role": "assistant", "content": "The answer is "}]
    text = template.render(messages, variables={}, continue_final_message=True)
    assert text == "[user]hi[/][assistant]The answer is "


def test_a_template_that_drops_the_last_message_cannot_continue_it() -> None:
    with pytest.raises(TemplateError, match="drops the last message"):
        ChatTemplate("{{ messages[0].role }}").render(USER, variables={}, continue_final_message=True)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ messages.__class__ }}",
        "{{ messages[0].__class__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ messages[0]['__class__'] }}",
        "{{ messages[0].items.__self__ }}",
        "{{ messages | attr('__class__') }}",
        "{{ strftime_now.__code__ }}{{ self }}{{ cycler.__init__ }}",
    ],
)
def test_underscored_attributes_do_not_exist(source: str) -> None:
    try:
        text = render(source)
    except TemplateError:
        return
    assert "class" not in text
    assert "object" not in text


@pytest.mark.parametrize(
    "source", ["{{ ''.__class__.__mro__ }}", "{% include '/etc/passwd' %}", "{% import 'x' as y %}"]
)
def test_escapes_fail(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source)


def test_endless_loops_run_out_of_fuel() -> None:
    nested = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
    with pytest.raises(TemplateError, match="OutOfFuel"):
        render(nested)


@pytest.mark.parametrize(
    "source",
    [
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{% if true %}" * 500 + "{% endif %}" * 500,
    ],
)
def test_recursion_is_bounded(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source)


def test_output_and_source_are_bounded() -> None:
    limits = TemplateLimits(source_chars=100, output_chars=10)
    with pytest.raises(TemplateError, match="produced 11 characters, allowed are 10"):
        ChatTemplate("{{ 'x' * 11 }}", limits=limits).render(USER, variables={})
    with pytest.raises(TemplateError, match="has 101 characters, allowed are 100"):
        ChatTemplate("x" * 101, limits=limits)


@pytest.mark.parametrize(
    "source", ["{{ 1 / 0 }}", "{{ messages[0].get() }}", "{{ nothing.at.all }}", "{{ unknown() }}"]
)
def test_failures_are_one_line(source: str) -> None:
    with pytest.raises(TemplateError, match="the chat template failed: ") as failure:
        render(source)
    assert "\n" not in str(failure.value)


def test_syntax_errors_name_the_line() -> None:
    with pytest.raises(TemplateError, match=r"cannot be compiled: SyntaxError.*line 2"):
        ChatTemplate("a\n{% if %}")


def test_messages_cannot_be_replaced_by_variables() -> None:
    template = ChatTemplate("{{ messages | length }}{{ tools is none }}")
    assert template.render(USER, variables={"messages": [], "tools": "x"}) == "1True"


def test_rendering_leaves_the_caller_s_messages_alone() -> None:
    messages = [{"role": "user", "content": "x"}]
    ChatTemplate("{{ messages.append(1) }}{{ messages[0].update({'content': 'y'}) }}").render(messages, variables={})
    assert messages == [{"role": "user", "content": "x"}]
