"""A chat template cannot leave its sandbox: CVE-2024-34359 and CVE-2026-5760 ran code out of a model's template.

Both rendered templates of model files with an unsandboxed Jinja2. What each attempt here aims at is refused by Jinja2's
sandbox; what a hole in that would lead to is a process without files, children and connections
(``tests/runtime/text/template/test_process.py``).
"""

from __future__ import annotations

import re

import pytest

from runtime.errors import TemplateError
from runtime.text.chat_template import ChatTemplate
from runtime.text.template.process import TemplateWorker
from tests.api.scripted_server import running_server, user

WORKER = TemplateWorker()
MESSAGES = [{"role": "user", "content": "hi"}]

ATTRIBUTES = [
    "''.__class__",
    "''.__class__.__mro__[1].__subclasses__()",
    "messages.__class__",
    "messages[0].__class__",
    "messages[0]['content']['__class__']",
    "messages[0].content.__class__",
    "messages[0].items.__self__",
    "('x' ~ messages[0].content).__class__",
    "('x' ~ messages[0].content)._spans",
    "'x'.strip.__func__.__globals__",
    "'x'.format.__globals__",
    "('x' | safe).__class__",
    "raise_exception.__globals__",
    "strftime_now.__closure__",
    "strftime_now.__code__",
    "range.__self__",
    "range(9).__class__",
    "dict.__base__.__subclasses__()",
    "dict.mro()",
    "namespace.__init__.__globals__",
    "namespace().__dict__",
    "cycler.__init__.__globals__.os.popen('id').read()",
    "cycler('a').__init__.__globals__",
    "joiner.__init__.__globals__",
    "lipsum.__globals__['os'].popen('id').read()",
    "self.__init__.__globals__",
    "self._TemplateReference__context",
    "(messages | map('upper')).gi_frame",
    "(messages | map('upper')).gi_code",
    "none_such.__class__",
    "[].append.__self__",
]
OTHER_WAYS = [
    "{{ '' | attr('__class__') }}",
    "{{ messages | attr('__class__') | attr('__mro__') }}",
    "{{ (['x'] | map(attribute='__class__') | list)[0].__mro__ }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{{ '{0.__class__}'.format(messages[0].content) }}",
    "{{ '{x.__class__}'.format_map({'x': messages}) }}",
    "{{ ('{0.__class__}' | safe).format(messages) }}",
    "{{ ('{0.__class__}' | attr('format'))(messages) }}",
    "{{ (['{0.__class__}'] | map('format', messages) | list)[0].__class__ }}",
    "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "{% macro m() %}{% endmacro %}{{ m.__call__.__func__ }}",
    "{% for m in messages %}{{ loop.__class__ }}{{ loop._iterator }}{% endfor %}",
    "{% block b %}{% endblock %}{{ self.b.__init__.__globals__ }}",
    "{% include '/etc/passwd' %}",
    "{% import '/etc/passwd' as x %}",
    "{% from 'os' import system %}",
    "{% extends '/etc/passwd' %}",
    "{{ messages.append(1) }}",
    "{{ messages.pop() }}",
    "{{ messages[0].update({'role': 'system'}) }}",
    "{{ messages[0].setdefault('x', 1) }}",
    "{{ messages | tojson(default=lipsum) }}",
    "{% set messages.x = 1 %}",
    "{{ open('/etc/passwd') }}",
    "{{ __import__('os') }}",
    "{{ __builtins__ }}{{ __builtins__.open }}",
    "{{ environment.globals }}",
    "{{ 'aGk='.encode().decode('base64') }}",
]


def outcome(source: str) -> str:
    """What a template prints; "refused" for an error, whose line tells nothing of the inside."""
    try:
        return ChatTemplate(source, WORKER).render(MESSAGES).text
    except TemplateError as failure:
        words = str(failure)
    assert re.match(r"the chat template (failed|cannot be compiled): ", words)
    assert not re.search(r"\n|/usr|/lib|site-packages|<class|\bat 0x|runtime\.text", words), words
    return "refused"


@pytest.mark.parametrize("expression", ATTRIBUTES)
def test_what_is_underscored_or_internal_is_undefined(expression: str) -> None:
    """Jinja2 prints nothing for it, and refuses to go on from there."""
    assert outcome(f"{{{{ {expression} }}}}") in {"", "refused"}
    for use in ("({}).x", "({})()", "({})[0]", "({}) + 'x'"):
        assert outcome(f"{{{{ {use.format(expression)} }}}}") == "refused"


@pytest.mark.parametrize("source", OTHER_WAYS)
def test_other_ways_lead_nowhere(source: str) -> None:
    assert outcome(source) in {"", "refused"}


def test_an_escape_over_http_is_a_client_s_mistake() -> None:
    """CVE-2026-5760 came in through a request to a server."""
    with running_server(trust_request_chat_template=True) as server:
        body = {"messages": [user("x")], "chat_template": "{{ lipsum.__globals__['os'].popen('id').read() }}"}
        answer = server.post(body)
        assert answer.status_code == 400
        assert "access to attribute '__globals__' of 'function' object is unsafe" in answer.json()["error"]["message"]


def test_templates_from_requests_are_refused_unless_trusted() -> None:
    with running_server() as server:
        answer = server.post({"messages": [user("x")], "chat_template": "{{ messages }}"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "chat_template")
