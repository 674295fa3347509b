"""A chat template cannot stop the server: CVE-2025-62426 (vLLM) hung it, and a recursion ended llama.cpp's parser.

CVE-2026-115911 and CVE-2026-115918 were the same again: no bound on a rendering's time and size. Here each attempt
costs the request that brings it a 400 in one line, and nobody else anything.
"""

from __future__ import annotations

import concurrent.futures
import os
import signal
from collections.abc import Iterator

import pytest

from runtime.text.template.wire import TemplateLimits
from tests.api.programs import TEMPLATE
from tests.api.scripted_server import GUEST_QUEUE, RunningServer, running_server, user
from tests.runtime.text.template.test_process import pid_of_second_attempt

RENDER = "/v1/chat/completions/render"
LIMITS = TemplateLimits(deadline_s=0.3, output_chars=100_000, memory_bytes=256 * 1024 * 1024)
SET = "{% set ns = namespace(a='ab', b=[]) %}"
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
ATTACKS = {
    "nested_lists": SET + "{% for i in range(90000) %}{% set ns.b = [ns.b] %}{% endfor %}{{ ns.b }}",
    "nested_lists_as_json": SET + "{% for i in range(90000) %}{% set ns.b = [ns.b] %}{% endfor %}{{ ns.b | tojson }}",
    "many_nots": "{{ " + "not " * 20_000 + "1 }}",
    "many_parentheses": "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "many_brackets": "{{ " + "[" * 90_000 + "]" * 90_000 + " }}",
    "many_sums": "{{ 1" + " + 1" * 50_000 + " }}",
    "many_attributes": "{{ a" + ".a" * 50_000 + " }}",
    "many_filters": "{{ 'a'" + " | upper" * 20_000 + " }}",
    "many_ifs": "{% if true %}" * 500 + "{% endif %}" * 500,
    "many_fors": "{% for a in [1] %}" * 100 + "{% endfor %}" * 100,
    "doubled_text": SET + "{% for i in range(33) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}{{ ns.a }}",
    "added_text": SET + "{% for i in range(33) %}{% set ns.a = ns.a + ns.a %}{% endfor %}{{ ns.a }}",
    "repeated_text": "{{ 'x' * 2000000000 }}",
    "padded_text": "{{ 'x' | center(2000000000) }}{{ '%2000000000s' % 'x' }}",
    "formatted_width": "{{ '{:>2000000000}'.format('x') }}",
    "replaced_text": "{{ ('x' * 99999).replace('x', 'y' * 99999) }}",
    "much_output": "{% for i in range(99999) %}{{ 'x' * 100 }}{% endfor %}",
    "long_loops": ENDLESS,
    "recursive_macro": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "recursive_loop": "{% for a in [[]] recursive %}{{ loop([[[]]]) }}{% endfor %}",
    "large_power": "{{ 9 ** (9 ** 9) }}",
    "large_range": "{{ range(1000000000) | list }}",
    "large_sequence": "{{ ([0] * 500000000) | length }}",
    "long_sort": "{% for i in range(999) %}{{ range(99999) | sort(reverse=true) | length }}{% endfor %}",
    "lorem_ipsum": "{{ lipsum(n=99999, html=false) }}",
}


@pytest.fixture(scope="module")
def guarded() -> Iterator[RunningServer]:
    with running_server(trust_request_chat_template=True, guest_limits=LIMITS) as server:
        yield server


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_costs_one_request(guarded: RunningServer, name: str) -> None:
    answer = guarded.post({"messages": [user("abc")], "chat_template": ATTACKS[name]})
    assert answer.status_code == 400, answer.text
    message = answer.json()["error"]["message"]
    assert message.startswith("the chat template "), message
    assert "\n" not in message
    assert guarded.chat("abc")["choices"][0]["message"]["content"] == "abc"


def test_a_hanging_template_delays_nobody_but_its_like() -> None:
    """Templates from requests have a queue of their own, and it is bounded."""
    limits = TemplateLimits(deadline_s=100)
    with running_server(trust_request_chat_template=True, guest_limits=limits) as server:
        guests = server.service.model.guest_worker
        fine = {"messages": [user("abc")], "chat_template": "{{ messages[0].content }}\n"}
        assert server.post(fine, RENDER).json()["prompt"] == "abc"
        with concurrent.futures.ThreadPoolExecutor(GUEST_QUEUE + 2) as pool:
            hanging = pool.submit(server.post, {**fine, "chat_template": ENDLESS}, RENDER)
            server.wait_for(lambda: guests._places._value == GUEST_QUEUE - 1)
            others = [pool.submit(server.post, fine, RENDER) for _ in range(GUEST_QUEUE + 1)]
            server.wait_for(lambda: sum(answer.done() for answer in others) == 2)
            assert [answer.result().status_code for answer in others if answer.done()] == [429, 429]
            assert server.chat("abc")["choices"][0]["message"]["content"] == "abc"
            assert server.get("/v1/health/ready").status_code == 200
            assert not hanging.done()
            os.kill(first := guests.pid or 0, signal.SIGKILL)  # once is nobody's fault, and costs nobody an answer
            os.kill(pid_of_second_attempt(guests, first), signal.SIGKILL)
        assert hanging.result().status_code == 503
        assert hanging.result().headers["retry-after"] == "2"
        assert "was ended from outside, twice; try again" in hanging.result().json()["error"]["message"]
        assert sorted(answer.result().status_code for answer in others) == [200] * (GUEST_QUEUE - 1) + [429, 429]


def test_a_model_s_own_template_is_bounded_too() -> None:
    """A package is no more to be trusted than a request: CVE-2024-34359 came with a model's file."""
    template = "{% if messages[0].content == 'loop' %}" + ENDLESS + "{% endif %}" + TEMPLATE
    with running_server(template=template, template_limits=LIMITS) as server:
        answer = server.post({"messages": [user("loop")]})
        assert answer.status_code == 400
        assert "ran for longer than the 0.3 s that are allowed" in answer.json()["error"]["message"]
        assert server.chat("abc")["choices"][0]["finish_reason"] == "stop"
